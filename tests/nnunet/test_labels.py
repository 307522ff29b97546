"""Regions, the ignore label and several input channels, alone and together."""

import json

import numpy as np
import pytest
import SimpleITK
import torch
from trainings import edit_plans, narrow, plan_and_preprocess, short_training, write_phantoms

CLASSES = {"background": 0, "RV": 1, "myocardium": 2, "LV": 3}
REGIONS = {"background": 0, "heart": [1, 2, 3], "left": [2, 3], "LV": 3}
IGNORED = 4


def left_half_annotated(labels: np.ndarray) -> np.ndarray:
    labels = labels.copy()
    labels[..., labels.shape[-1] // 2 :] = IGNORED
    return labels


@pytest.fixture(scope="session")
def labelled() -> dict[str, str]:
    """Data sets by what their labels are; plans `Narrow`."""
    names = {"regions": "Dataset931_Regions", "ignore": "Dataset932_Ignore", "both": "Dataset933_RegionsAndIgnore"}
    write_phantoms(names["regions"], REGIONS, [1, 2, 3], channels=2)
    write_phantoms(names["ignore"], CLASSES | {"ignore": IGNORED}, relabel=left_half_annotated)
    write_phantoms(names["both"], REGIONS | {"ignore": IGNORED}, [1, 2, 3], relabel=left_half_annotated)
    plan_and_preprocess(names.values(), "2d")
    for name in names.values():
        edit_plans(name, "nnUNetPlans", "Narrow", lambda configurations: narrow(configurations["2d"]))
    return names


@torch.no_grad()
def assert_ignored(trainer, batch, ignored: list[torch.Tensor]) -> None:
    """The loss is blind to what the network says where nobody annotated, and only there."""
    outputs = trainer.network(batch["data"])
    loss = trainer.loss(outputs, batch["target"])

    def loss_changed_at(masks: list[torch.Tensor]) -> torch.Tensor:
        changed = [torch.where(mask, -output, output) for mask, output in zip(masks, outputs, strict=True)]
        return trainer.loss(changed, batch["target"])

    torch.testing.assert_close(loss_changed_at(ignored), loss)
    assert (loss_changed_at([~mask for mask in ignored]) - loss).abs() > 1e-3


@pytest.mark.longer
def test_regions_of_two_channels(labelled, tmp_path):
    trainer = short_training(tmp_path, labelled["regions"], "2d", "Narrow")
    batches = [next(trainer.dataloader_train) for _ in range(5)]  # nnU-Net draws slices and patches at random
    heart, left, lv = sum(batch["target"][0].bool().sum((0, 2, 3)) for batch in batches)
    assert heart > left > lv > 0
    batch = batches[0]
    assert batch["data"].shape[1] == 2
    assert trainer.network(batch["data"])[0].shape[1] == 3


@pytest.mark.longer
def test_ignore_label(labelled, tmp_path):
    trainer = short_training(tmp_path, labelled["ignore"], "2d", "Narrow")
    batch, *more = (next(trainer.dataloader_train) for _ in range(5))
    assert set(torch.cat([each["target"][0] for each in (batch, *more)]).unique().tolist()) == {0, 1, 2, 3, IGNORED}
    assert trainer.network(batch["data"])[0].shape[1] == 4
    assert_ignored(trainer, batch, [target == IGNORED for target in batch["target"]])


@pytest.mark.longer
def test_regions_with_ignore_label(labelled, tmp_path):
    trainer = short_training(tmp_path, labelled["both"], "2d", "Narrow")
    batch = next(trainer.dataloader_train)
    assert trainer.network(batch["data"])[0].shape[1] == 3
    assert batch["target"][0].shape[1] == 4  # the last says what is ignored
    assert_ignored(trainer, batch, [target[:, 3:].bool() for target in batch["target"]])

    trainer.perform_actual_validation()
    assert trainer.loss.taps.take() is None
    (prediction,) = (tmp_path / labelled["both"]).rglob("validation/*.nii.gz")
    assert set(np.unique(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(prediction)))) <= {0, 1, 2, 3}
    summary = json.loads((prediction.parent / "summary.json").read_text())
    assert summary["mean"].keys() == {"(1, 2, 3)", "(2, 3)", "3"}
