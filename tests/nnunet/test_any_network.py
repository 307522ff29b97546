"""Networks that nnU-Net's planner does not plan: MONAI's in the plans, from the training to the export.

`examples/networks/monai_networks.py` is what a user writes; the network's module is on the path as a user puts it.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import model_folder, quoted, run
from trainings import build_trainer, edit_plans, logged

from nnunetv2_selfreg.commands import export
from nnunetv2_selfreg.commands.plans import main as list_modules
from nnunetv2_selfreg.compat import find_external_trainer
from nnunetv2_selfreg.errors import SelfRegError

EXAMPLE = Path(__file__).parents[2] / "examples" / "networks"
TRAINER = "nnUNetTrainerSelfRegNoDeepSupervision"
SWIN = {"spatial_dims": 3, "feature_size": 12, "window_size": 4, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 4]}


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


def by_command(dataset, configuration: str, trainer: str, plans: str, output: Path) -> dict:
    """Trains an epoch, predicts, evaluates, inspects and exports; returns the model as the inspection has it."""
    which = f"-c {configuration} -f 0 -tr {trainer} -p {plans} -device cpu"
    images, labels, predicted = dataset.raw / "imagesTs", dataset.raw / "labelsTs", output / "predicted"
    run(f"nnUNetv2_train {dataset.number} {configuration} 0 -tr {trainer} -p {plans} -device cpu")
    run(
        f"nnUNetv2_predict -d {dataset.number} {which} -i {quoted(images)} -o {quoted(predicted)} "
        "-npp 1 -nps 1 --disable_tta"
    )
    run(
        f"nnUNetv2_evaluate_folder {quoted(labels)} {quoted(predicted)} -djfile {quoted(predicted / 'dataset.json')} "
        f"-pfile {quoted(predicted / 'plans.json')}"
    )
    model = model_folder(trainer, plans, configuration)
    for scores in (model / "fold_0" / "validation", predicted):
        assert np.isfinite(json.loads((scores / "summary.json").read_text())["foreground_mean"]["Dice"])
    run(
        f"nnUNetv2_selfreg inspect {quoted(model)} --images {quoted(images)} --labels {quoted(labels)} --cases 1 "
        f"-o {quoted(output / 'inspected')}"
    )
    assert export.main([str(model), str(output / "shared")]) == 0
    (exported,) = (output / "shared" / model.parent.name).iterdir()
    stock, own_plans, _ = exported.name.split("__")
    assert "SelfReg" not in stock
    assert own_plans.startswith(f"{plans}SelfReg")
    (inspected,) = json.loads((output / "inspected" / "values.json").read_text())["models"]
    return inspected


@pytest.mark.slow
def test_swin_unetr_in_three_dimensions(dataset, tmp_path):
    plans = network_plans(dataset, "Swin", "3d_fullres", "swin_unetr", SWIN, [32, 64, 32], taps="first_and_last")
    trainer = build_trainer(tmp_path, dataset.raw.name, "3d_fullres", TRAINER, plans)
    trainer.initialize()
    stages = trainer.loss.taps.stages
    assert list(stages.encoder) == [f"swinViT.layers{i}.0{part}" for i in range(1, 5) for part in (" first block", "")]
    assert list(stages.decoder) == ["decoder5", "decoder4", "decoder3", "decoder2"]
    assert list(stages.teacher) == ["decoder1"]

    inspected = by_command(dataset, "3d_fullres", f"{TRAINER}_1epoch", plans, tmp_path)
    stages = {stage["name"]: (stage["module"], stage["student"]) for stage in inspected["stages"]}
    assert stages["encoder.stages.0"] == ("swinViT.patch_embed", False)
    assert stages["encoder.stages.4"] == ("swinViT.layers4.0", True)
    assert stages["decoder.stages.4"] == ("decoder1", False)
    measured = {value["stage"] for value in inspected["values"] if value["measure"] == "ifd"}
    assert measured >= {"encoder.stages.1 first block", "encoder.stages.4", "decoder.stages.0", "students"}
    page = (tmp_path / "inspected" / "report.html").read_text()
    assert "E1 is <code>swinViT.layers1.0</code>" in page


@pytest.mark.slow
def test_a_residual_encoder_preset_with_deep_supervision(dataset, tmp_path):
    run(f"nnUNetv2_plan_experiment -d {dataset.number} -pl nnUNetPlannerResEncM")
    plans = edit_plans(
        dataset.raw.name,
        "nnUNetResEncUNetMPlans",
        "ResEncPreset",
        lambda configurations: configurations["2d"].update(batch_size=2),
    )
    trainer = "nnUNetTrainerSelfReg_1epoch"
    assert build_trainer(tmp_path, dataset.raw.name, "2d", trainer, plans).enable_deep_supervision
    inspected = by_command(dataset, "2d", trainer, plans, tmp_path)
    assert [stage["module"] for stage in inspected["stages"]] == [stage["name"] for stage in inspected["stages"]]


def small_segresnet(dataset, name: str, **selfreg) -> str:
    """A network of MONAI whose stages nobody has built in, in 2d."""
    arguments = {"spatial_dims": 2, "init_filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]}
    return network_plans(dataset, name, "2d", "segresnet", arguments, [32, 64], **selfreg)


SEGRESNET = {
    "encoder_stages": ["down_layers.1", "down_layers.2"],
    "decoder_stages": ["up_layers.0"],
    "teacher": "up_layers.1",
}


@pytest.mark.longer
def test_a_network_that_is_not_known_is_chosen_from_the_list_of_its_modules_and_trains(dataset, tmp_path, capsys):
    plans = small_segresnet(dataset, "SegResNet")
    listing = f"-d {dataset.number} -p {plans} -c 2d -tr {TRAINER} --list-modules".split()
    assert list_modules(listing) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "SegResNet for an image of 32 x 64"
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in printed[1:]}
    assert rows["down_layers.2"] == "Sequential 32 8 x 16 channels first"
    assert rows["up_layers.1"] == "Sequential 8 32 x 64 channels first"
    assert "conv_final.0" not in rows  # an in-place ReLU writes into it
    assert printed[-1].startswith("SelfReg: SegResNet has no encoder.stages and decoder.stages; name encoder_stages")
    with pytest.raises(SelfRegError, match=r"^SelfReg: SegResNet has no encoder\.stages"):
        build_trainer(tmp_path, dataset.raw.name, "2d", TRAINER, plans).initialize()

    named = small_segresnet(dataset, "SegResNetNamed", **SEGRESNET)
    assert list_modules([*listing, "-p", named]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["down_layers.1"].endswith(" encoder")
    assert rows["up_layers.1"].endswith(" teacher")
    trainer = train(tmp_path, dataset, "2d", named)
    assert [list(part) for part in trainer.loss.taps.stages] == [
        SEGRESNET["encoder_stages"],
        SEGRESNET["decoder_stages"],
        [SEGRESNET["teacher"]],
    ]


@pytest.mark.longer
def test_a_module_that_is_written_over_is_refused_before_the_training(dataset, tmp_path):
    plans = small_segresnet(dataset, "SegResNetWrong", **(SEGRESNET | {"teacher": "conv_final.0"}))
    with pytest.raises(SelfRegError, match=r"^SelfReg: a later layer writes into the output of conv_final\.0; name "):
        build_trainer(tmp_path, dataset.raw.name, "2d", TRAINER, plans).run_training()


def test_deep_supervision_of_a_network_with_one_output_is_refused_in_plain_words(dataset, tmp_path):
    plans = small_segresnet(dataset, "SegResNetDeep", **SEGRESNET)
    with pytest.raises(ValueError, match=r"one output; train with a trainer that ends in NoDeepSupervision$"):
        build_trainer(tmp_path, dataset.raw.name, "2d", "nnUNetTrainerSelfReg", plans).initialize()


@pytest.mark.longer
def test_a_trainer_that_builds_its_own_network(dataset, tmp_path, monkeypatch):
    """As nnU-Net's documentation has it, in a folder of nnUNet_extTrainer; SelfReg by its name alone."""
    monkeypatch.setenv("nnUNet_extTrainer", str(EXAMPLE / "trainers"))
    if find_external_trainer("nnUNetTrainerSegResNet") is None:
        pytest.skip("nnU-Net reads nnUNet_extTrainer since 2.8")
    plans = edit_plans(
        dataset.raw.name,
        "Small",
        "OwnTrainer",
        lambda configurations: configurations["2d"].update(selfreg=SEGRESNET, batch_size=2, patch_size=[32, 64]),
    )
    trainer = train(tmp_path, dataset, "2d", plans, "nnUNetTrainerSelfRegSegResNet")
    assert type(trainer.network).__name__ == "SegResNet"
    assert trainer.enable_deep_supervision is False
