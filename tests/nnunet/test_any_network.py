"""Networks that nnU-Net's planner does not plan: MONAI's in the plans, from the training to the export.

`examples/networks/monai_networks.py` is what a user writes; the network's module is on the path as a user puts it.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import folder, model_folder, run
from trainings import build_trainer, edit_plans, logged

from nnunetv2_selfreg.commands import export

EXAMPLE = Path(__file__).parents[2] / "examples" / "networks"
TRAINER = "nnUNetTrainerSelfRegNoDeepSupervision"
SWIN = {"spatial_dims": 3, "feature_size": 12, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 4]}


@pytest.fixture(scope="module", autouse=True)
def written_networks():
    """The example's folder is where Python finds modules, in this process and in nnU-Net's commands."""
    pytest.importorskip("monai", reason="monai comes with the extra [dev]")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        patch.setenv("PYTHONPATH", str(EXAMPLE))
        yield
    sys.modules.pop("monai_networks", None)


def network_plans(dataset, name: str, configuration: str, function: str, arguments: dict, patch=None, **selfreg) -> str:
    """The plans `Small` with a network of the example."""

    def edit(configurations: dict) -> None:
        changed = configurations[configuration]
        changed["architecture"] = {
            "network_class_name": f"monai_networks.{function}",
            "arch_kwargs": arguments,
            "_kw_requires_import": [],
        }
        changed["batch_size"], changed["selfreg"] = 2, selfreg
        changed["patch_size"] = patch or changed["patch_size"]

    return edit_plans(dataset.raw.name, "Small", name, edit)


def train(results: Path, dataset, configuration: str, plans: str, name: str = TRAINER):
    """Two steps and one of validation; the same trainer as `nnUNetv2_train -tr NAME` finds."""
    trainer = build_trainer(results, dataset.raw.name, configuration, name, plans)
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_n_proc_DA", "0")
        trainer.run_training()
    for term in ("scr", "ifd", "selfreg_share"):
        (value,) = logged(trainer)[term]
        assert np.isfinite(value)
        assert value > 0, term
    return trainer


@pytest.mark.slow
def test_swin_unetr_from_training_to_export(dataset, tmp_path):
    plans = network_plans(dataset, "Swin", "3d_fullres", "swin_unetr", SWIN, [32, 64, 32], taps="first_and_last")
    trainer = train(folder("results"), dataset, "3d_fullres", plans)
    stages = trainer.loss.taps.stages
    assert list(stages.encoder) == [f"swinViT.layers{i}.0{part}" for i in range(1, 5) for part in (" first block", "")]
    assert list(stages.decoder) == ["decoder5", "decoder4", "decoder3", "decoder2"]
    assert list(stages.teacher) == ["decoder1"]

    name = f"nnUNetv2_train {dataset.number} 3d_fullres 0 -tr {TRAINER} -p {plans} -device cpu"
    run(f"{name} --val")
    model = model_folder(TRAINER, plans, "3d_fullres")
    assert np.isfinite(json.loads((model / "fold_0/validation/summary.json").read_text())["foreground_mean"]["Dice"])
    run(
        f"nnUNetv2_predict -d {dataset.number} -c 3d_fullres -f 0 -tr {TRAINER} -p {plans} "
        f"-i {dataset.raw / 'imagesTs'} -o {tmp_path / 'predicted'} -device cpu -npp 1 -nps 1 --disable_tta"
    )
    files = (dataset.raw / "labelsTs", tmp_path / "predicted")
    run(
        f"nnUNetv2_evaluate_folder {files[0]} {files[1]} -djfile {files[1] / 'dataset.json'} "
        f"-pfile {files[1] / 'plans.json'}"
    )
    assert np.isfinite(json.loads((files[1] / "summary.json").read_text())["foreground_mean"]["Dice"])
    run(
        f"nnUNetv2_selfreg inspect {model} --images {dataset.raw / 'imagesTs'} --labels {files[0]} --cases 1 "
        f"-o {tmp_path / 'inspected'}"
    )
    content = json.loads((tmp_path / "inspected" / "values.json").read_text())
    names = {value["stage"] for value in content["models"][0]["values"] if value["measure"] == "ifd"}
    assert names >= {"swinViT.layers1.0 first block", "swinViT.layers4.0", "decoder5"}
    assert export.main([str(model), str(tmp_path / "shared")]) == 0
    (exported,) = (tmp_path / "shared" / model.parent.name).iterdir()
    assert exported.name == f"nnUNetTrainerNoDeepSupervision__{plans}__3d_fullres"
