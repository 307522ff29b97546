"""The example of a term of one's own: found by nnU-Net, trained, logged, plotted, set, exported and inspected."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from commands import folder, model_folder, quoted, run
from trainings import build_trainer, logged

from nnunetv2_selfreg.model_folder import ModelFolder
from nnunetv2_selfreg.trainer import find_trainer

TRAINERS = Path(__file__).parents[2] / "examples" / "own_term" / "trainers"
NAME = "nnUNetTrainerSelfRegAttention"


@pytest.fixture
def external(monkeypatch):
    if not hasattr(importlib.import_module("nnunetv2.paths"), "nnUNet_extTrainer"):
        pytest.skip("nnUNet_extTrainer came with nnU-Net 2.8")
    monkeypatch.setenv("nnUNet_extTrainer", str(TRAINERS))


def slow_attention(student, teacher):
    """Attention transfer in plain numpy, for maps whose sizes divide."""
    maps = [feature.astype(np.float64) ** 2 for feature in (student, teacher)]
    maps = [feature.mean(1) for feature in maps]
    grid = [min(sizes) for sizes in zip(*(feature.shape[1:] for feature in maps), strict=True)]
    flat = []
    for feature in maps:
        for axis, size in enumerate(grid, start=1):
            shape = [*feature.shape[:axis], size, -1, *feature.shape[axis + 1 :]]
            feature = feature.reshape(shape).mean(axis + 1)
        vectors = feature.reshape(len(feature), -1)
        flat.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return ((flat[0] - flat[1]) ** 2).sum(1).mean()


def test_the_example_trains_and_is_logged_and_plotted(external, dataset, tmp_path, monkeypatch):
    trainer = build_trainer(tmp_path, dataset.raw.name, "2d", NAME, "Small")
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
    trainer.disable_checkpointing = True
    trainer.initialize()
    steps = []
    take = trainer.loss.taps.take

    def watched():
        features = take()
        if features is not None:
            maps = [f.detach().numpy() for f in (*features.encoder, *features.decoder, features.teacher)]
            steps.append(np.mean([slow_attention(student, maps[-1]) for student in maps[:-1]]))
        return features

    monkeypatch.setattr(trainer.loss.taps, "take", watched)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer.run_training()
    assert trainer.loss.weights == {"attention": 0.15}
    assert len(steps) == 2
    assert logged(trainer)["attention"] == [pytest.approx(np.mean(steps), rel=1e-4)]
    assert 0 < logged(trainer)["selfreg_share"][0] < 1
    assert "scr" not in logged(trainer)
    assert (Path(trainer.output_folder) / "selfreg.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_example_on_nnunets_command_line(external, dataset, tmp_path):
    """Its weight set by `plans`, trained with a stock trainer's ending, predicted, exported, inspected."""
    name, plans = f"{NAME}_1epoch", "OwnTerm"
    run(f"nnUNetv2_selfreg plans -d {dataset.number} -p Small -c 2d -tr {name} --lambda-attention 0.3 -o {plans}")
    run(f"nnUNetv2_train {dataset.number} 2d 0 -tr {name} -p {plans} -device cpu")
    model = model_folder(name, plans, "2d")
    assert find_trainer(name).__mro__[2].__name__ == "nnUNetTrainerSelfReg"
    assert ModelFolder.open(model).settings.weights == {"attention": 0.3}
    images = folder("raw") / dataset.raw.name / "imagesTs"
    run(
        f"nnUNetv2_predict -i {quoted(images)} -o {quoted(tmp_path / 'predicted')} -d {dataset.number} -c 2d -f 0 "
        f"-tr {name} -p {plans} -device cpu"
    )
    assert len(list((tmp_path / "predicted").glob("*.nii.gz"))) == len(list(images.iterdir()))
    run(f"nnUNetv2_selfreg export {quoted(model)} {quoted(tmp_path / 'exported')}")
    origin = json.loads(next((tmp_path / "exported").rglob("selfreg_origin.json")).read_text())
    assert len(origin["folds"]["fold_0"]["attention"]) == 1
    assert (tmp_path / "exported" / dataset.raw.name / f"nnUNetTrainer_1epoch__{plans}SelfRegAttention__2d").is_dir()
    run(
        f"nnUNetv2_selfreg inspect {quoted(model)} --images {quoted(images)} --cases 1 -o {quoted(tmp_path / 'report')}"
    )
    assert "attention" in (tmp_path / "report" / "report.html").read_text()
