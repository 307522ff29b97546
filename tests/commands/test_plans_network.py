"""The plans command checks the stages that it is given against the network of the plans, a small real one."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from model_folders import CLASSES, write_plans

from nnunetv2_selfreg.commands import plans as room
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.model_folder import ModelFolder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A preprocessed folder whose network has three encoder and two decoder stages; `narrow` inherits from `2d`."""
    folder = tmp_path / "preprocessed" / "Dataset001_Tiny"
    folder.mkdir(parents=True)
    plans = write_plans("2d", 2, 1, {}) | {"plans_name": "nnUNetPlans"}
    plans["configurations"]["narrow"] = {"inherits_from": "2d", "batch_size": 1}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    dataset = {"channel_names": {"0": "MRI"}, "labels": CLASSES, "numTraining": 5, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    return folder


def run(*arguments: str) -> int:
    return room.main(["-d", "Dataset001_Tiny", "-o", "New", *arguments])


def refusal(folder: Path, *arguments: str) -> str:
    with pytest.raises(SelfRegError) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)
    assert not (folder / "New.json").exists()
    return str(caught.value)


def settings(folder: Path, configuration: str = "2d") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "New.json").read_text())["configurations"][configuration]["selfreg"]
    return content


def test_every_setting_of_the_published_trainer_has_an_option(folder: Path) -> None:
    line = "-c 2d --lambda-scr .5 --lambda-ifd 0 --taps first_and_last --encoder-stages [2] --decoder-stages [0]"
    assert run(*line.split(), "--teacher", "decoder.stages.1", "--every", "2", "--scr-channels", "expected") == 0
    assert settings(folder) == {
        "lambda_scr": 0.5,
        "lambda_ifd": 0.0,
        "taps": "first_and_last",
        "encoder_stages": [2],
        "decoder_stages": [0],
        "teacher": "decoder.stages.1",
        "every": 2,
        "scr_channels": "expected",
    }


@pytest.mark.parametrize(
    ("given", "stages"),
    [
        (["1,2"], [1, 2]),
        (["1", "2"], [1, 2]),
        (["1 2"], [1, 2]),
        (["1, 2"], [1, 2]),
        (["1,", "2"], [1, 2]),
        (["[1,2]"], [1, 2]),
        (["[1,", "2]"], [1, 2]),  # as a shell splits [1, 2]
        (["2"], [2]),
        (["[]"], []),
        (["encoder.stages.1"], ["encoder.stages.1"]),
        (["encoder.stages.1,encoder.stages.2"], ["encoder.stages.1", "encoder.stages.2"]),
        (['["encoder.stages.1", 2]'], ["encoder.stages.1", 2]),
    ],
)
def test_a_list_as_people_type_it(folder: Path, given: list[str], stages: list[int | str]) -> None:
    assert run("-c", "2d", "--encoder-stages", *given) == 0
    assert settings(folder) == {"encoder_stages": stages}


@pytest.mark.parametrize("given", ["[1,2", "1;2", "1,,2", "1,2,", "-1", "{1: 2}", "[[1]]"])
def test_what_is_no_list_is_refused_in_one_line(folder: Path, given: str) -> None:
    message = refusal(folder, "-c", "2d", "--encoder-stages", given)
    assert message.startswith(f"--encoder-stages {given} is not a list of stages; write 1,2 or modules' names")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--encoder-stages 1,99", "2d: SelfReg: plans key 'selfreg.encoder_stages' names stage 99; .* are 0, 1, 2$"),
        ("--decoder-stages 1", "2d: SelfReg: plans key 'selfreg.decoder_stages' names stage 1; .* stages are 0$"),
        ("--encoder-stages 1.5", "2d: SelfReg: plans key 'selfreg.encoder_stages' names '1.5', which is no module of"),
        ("--teacher decoder.stage.1", "2d: SelfReg: plans key 'selfreg.teacher' .* the nearest: decoder.stages.1"),
        ("--teacher encoder.stages.1", "2d: SelfReg: encoder.stages.1 .*named twice; "),
        ("--encoder-stages [] --decoder-stages []", "2d: SelfReg: no stage of PlainConvUNet is left as a student"),
    ],
)
def test_what_the_network_does_not_have_is_refused(folder: Path, given: str, message: str) -> None:
    assert re.search(message, refusal(folder, "-c", "2d", *given.split()))


def test_a_configuration_that_inherits_is_checked_with_its_own_network(folder: Path) -> None:
    path = folder / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    smaller = json.loads(json.dumps(plans["configurations"]["2d"]["architecture"]))
    for key, stages in smaller["arch_kwargs"].items():
        if isinstance(stages, list):
            smaller["arch_kwargs"][key] = stages[:-1]
    smaller["arch_kwargs"]["n_stages"] = 2
    plans["configurations"]["narrow"]["architecture"] = smaller
    path.write_text(json.dumps(plans))
    message = refusal(folder, "-c", "2d", "--encoder-stages", "1,2")
    assert message.startswith("narrow: SelfReg: plans key 'selfreg.encoder_stages' names stage 2; ")


def test_stages_that_were_there_are_checked_with_the_weight_that_is_given(folder: Path) -> None:
    path = folder / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["2d"]["selfreg"] = {"encoder_stages": [99]}
    path.write_text(json.dumps(plans))
    assert "names stage 99" in refusal(folder, "-c", "2d", "--lambda-scr", "0.1")
    assert "names stage 99" in refusal(folder, "-c", "2d", "--encoder-stages", "99")


def test_a_network_that_cannot_be_built_is_named(folder: Path) -> None:
    path = folder / "nnUNetPlans.json"
    path.write_text(path.read_text().replace("unet.PlainConvUNet", "unet.NoUNet"))
    message = refusal(folder, "-c", "2d", "--encoder-stages", "1")
    assert message.startswith("2d: nnUNetTrainerSelfReg cannot build the network")


def test_plans_of_a_model_are_refused_without_an_option_that_its_command_lacks(tmp_path: Path) -> None:
    model = tmp_path / "nnUNetTrainerSelfReg__Tiny__2d"
    model.mkdir()
    for name in ("plans.json", "dataset.json"):
        (model / name).write_text("{}")
    with pytest.raises(SelfRegError, match=r"plans\.json is not a plans file: it has no configurations$"):
        _ = ModelFolder.open(model).plans
