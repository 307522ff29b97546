"""The plans command on a small hand-written plans file with inheritance and a cascade."""

import argparse
import copy
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nnunetv2_selfreg.commands import plans as room
from nnunetv2_selfreg.compat import find_external_trainer
from nnunetv2_selfreg.errors import SelfRegError

MINE = """
from nnunetv2_selfreg.terms import BUILT_IN, own_term
from nnunetv2_selfreg.trainer import nnUNetTrainerSelfReg


class nnUNetTrainerMine(nnUNetTrainerSelfReg):
    terms = (*BUILT_IN, own_term("size", lambda student, teacher: student.square().mean(), weight=0.5))
"""
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset998_Toy",
    "plans_name": "nnUNetPlans",
    "configurations": {
        "2d": {"data_identifier": "nnUNetPlans_2d", "batch_size": 12, "architecture": {}},
        "3d_lowres": {"data_identifier": "nnUNetPlans_3d_lowres", "architecture": {}},
        "3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres",
            "architecture": {},
            "selfreg": {"lambda_ifd": 0.5},
        },
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The preprocessed folder of one data set, with the data of `2d` alone."""
    folder = tmp_path / "preprocessed" / "Dataset998_Toy"
    (folder / "nnUNetPlans_2d").mkdir(parents=True)
    for name in ("dataset", "dataset_fingerprint", "splits_final"):
        (folder / f"{name}.json").write_text("{}")
    (folder / "nnUNetPlans.json").write_text(json.dumps(PLANS))
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    return folder


def run(*arguments: str) -> int:
    return room.main(["-d", "Dataset998_Toy", *arguments])


def refusal(*arguments: str) -> str:
    with pytest.raises(SelfRegError) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(folder: Path, identifier: str = "New") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{identifier}.json").read_text())
    return content


def command(environment: dict[str, str], line: str) -> "subprocess.CompletedProcess[str]":
    unset = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
    return subprocess.run(
        [sys.executable, "-m", "nnunetv2_selfreg.cli", "plans", *shlex.split(line)],
        capture_output=True,
        text=True,
        check=False,
        env=unset | environment,
    )


def test_command_writes_plans_and_prints_how_to_train(folder: Path) -> None:
    done = command({"nnUNet_preprocessed": str(folder.parent)}, "-d 998 -c 2d --lambda-scr 0.1 -o New")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"wrote {folder / 'New.json'}",
        "  2d: lambda_scr 0.1, lambda_ifd 0.015, taps stages",
        "it shares the preprocessed data of nnUNetPlans; nothing must be preprocessed again",
        "train with",
        "  nnUNetv2_train 998 2d 0 -tr nnUNetTrainerSelfReg -p New",
    ]
    expected = copy.deepcopy(PLANS)
    expected["plans_name"] = "New"
    expected["configurations"]["2d"]["selfreg"] = {"lambda_scr": 0.1}
    assert written(folder) == expected
    assert json.loads((folder / "nnUNetPlans.json").read_text()) == PLANS


def test_no_folder_of_preprocessed_data_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_preprocessed")
    expected = "nnUNet_preprocessed is not set; export nnUNet_preprocessed=/path/to/nnUNet_preprocessed"
    assert refusal("--lambda-scr", "0.1", "-o", "New") == expected


@pytest.mark.parametrize("dataset", ["997", "Toy", "Dataset997_None"])
def test_the_data_sets_that_exist_are_named(folder: Path, dataset: str) -> None:
    with pytest.raises(SelfRegError) as caught:
        room.dataset_folder(dataset)
    expected = f"-d {dataset} fits no data set, or several; preprocessed in {folder.parent}: Dataset998_Toy"
    assert str(caught.value) == expected


def test_command_ends_with_one_line_for_a_number_that_two_data_sets_have(folder: Path) -> None:
    (folder.parents[1] / "raw" / "Dataset998_Other").mkdir(parents=True)
    environment = {"nnUNet_preprocessed": str(folder.parent), "nnUNet_raw": str(folder.parents[1] / "raw")}
    done = command(environment, "-d 998 --lambda-scr 0.1 -o New")
    expected = f"-d 998 fits no data set, or several; preprocessed in {folder.parent}: Dataset998_Toy"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"nnUNetv2_selfreg plans: {expected}\n"


def test_a_data_set_that_is_not_preprocessed_is_said_to_be_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(folder.parents[1] / "raw"))
    (folder.parents[1] / "raw" / "Dataset997_Raw").mkdir(parents=True)
    with pytest.raises(SelfRegError) as caught:
        room.dataset_folder("Dataset997_Raw")
    expected = "Dataset997_Raw is not preprocessed yet: nnUNetv2_plan_and_preprocess -d 997"
    assert str(caught.value) == f"-d Dataset997_Raw: {expected}"


def test_plans_of_nnunet_are_not_replaced(folder: Path) -> None:
    assert run("--lambda-scr", "0.1", "-o", "New") == 0
    assert run("--lambda-scr", "0.2", "-o", "New", "--overwrite") == 0
    stock = json.dumps({"plans_name": "Stock", "configurations": {"2d": {}}})
    (folder / "Stock.json").write_text(stock)
    said = refusal("--lambda-scr", "0.1", "-o", "Stock", "--overwrite")
    assert said.endswith("Stock.json was not written by this command, it has no SelfReg settings; choose another -o")
    assert (folder / "Stock.json").read_text() == stock


def test_the_weight_of_a_term_that_the_trainer_lacks_is_refused(folder: Path) -> None:
    said = refusal("--lambda-ifd", "0.1", "-o", "New", "-tr", "nnUNetTrainerSelfRegSCR")
    assert said == "-tr nnUNetTrainerSelfRegSCR has no term for --lambda-ifd; leave it out"


def test_a_setting_is_written_as_in_the_plans_and_null_is_the_default_again(folder: Path) -> None:
    assert run("--lambda_scr", "0.1", "--every", "2", "-c", "2d", "-o", "First") == 0
    assert run("-p", "First", "--teacher", "null", "--encoder-stages", "null", "-c", "2d", "-o", "New") == 0
    found = written(folder)["configurations"]["2d"]["selfreg"]
    assert found == {"lambda_scr": 0.1, "every": 2, "teacher": None, "encoder_stages": None}


def test_plans_to_start_from_may_be_named_with_their_ending(folder: Path) -> None:
    assert run("-p", "nnUNetPlans.json", "--lambda-scr", "0.1", "-o", "New") == 0
    assert written(folder)["plans_name"] == "New"


def test_nnunet_reads_the_settings_as_they_were_resolved(folder: Path) -> None:
    handler = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler")
    assert run("--lambda-scr", "0.1", "-o", "New", "-c", "3d_cascade_fullres") == 0
    manager = handler.PlansManager(str(folder / "New.json"))
    for name in PLANS["configurations"]:
        assert manager.get_configuration(name).configuration == room.resolve(written(folder), name)
    cascade = manager.get_configuration("3d_cascade_fullres").configuration
    assert cascade["selfreg"] == {"lambda_scr": 0.1, "lambda_ifd": 0.5}
    assert cascade["data_identifier"] == "nnUNetPlans_3d_fullres"


def test_every_configuration_is_set_when_none_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--lambda-scr", "0.1", "-o", "New") == 0
    configurations = written(folder)["configurations"]
    kept = {"lambda_ifd": 0.5, "lambda_scr": 0.1}
    assert configurations["2d"]["selfreg"] == configurations["3d_lowres"]["selfreg"] == {"lambda_scr": 0.1}
    assert configurations["3d_fullres"]["selfreg"] == configurations["3d_cascade_fullres"]["selfreg"] == kept
    lines = capsys.readouterr().out.splitlines()
    command = "nnUNetv2_preprocess -d 998 -plans_name nnUNetPlans -c"
    assert [line for line in lines if "not there yet" in line] == [
        f"{folder / 'nnUNetPlans_3d_lowres'} is not there yet: {command} 3d_lowres",
        f"{folder / 'nnUNetPlans_3d_fullres'} is not there yet: {command} 3d_fullres",
    ]
    assert not any("nothing must be preprocessed" in line for line in lines)
    assert lines[-1].endswith("-p New  # after every fold of 3d_lowres, with the same -tr and -p")


def test_a_data_set_that_the_shell_completed_is_named_without_its_slash(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-d", "Dataset998_Toy/", "--lambda-scr", "0.1", "-o", "New", "-c", "2d") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "  nnUNetv2_train Dataset998_Toy 2d 0 -tr nnUNetTrainerSelfReg -p New"


def test_report_names_who_inherits_the_new_settings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--lambda-scr", "0.1", "-o", "New", "-c", "3d_fullres") == 0
    assert "selfreg" not in written(folder)["configurations"]["3d_cascade_fullres"]
    lines = capsys.readouterr().out.splitlines()
    assert "  3d_cascade_fullres: lambda_scr 0.1, lambda_ifd 0.5, taps stages (inherited)" in lines
    assert [line for line in lines if line.startswith("  nnUNetv2_train")] == [
        "  nnUNetv2_train Dataset998_Toy 3d_fullres 0 -tr nnUNetTrainerSelfReg -p New"
    ]


def test_given_setting_replaces_the_one_that_is_there(folder: Path) -> None:
    assert run("--lambda-ifd", "0", "-o", "New", "-c", "2d", "3d_fullres") == 0
    configurations = written(folder)["configurations"]
    assert configurations["2d"]["selfreg"] == configurations["3d_fullres"]["selfreg"] == {"lambda_ifd": 0.0}


def test_with_settings_leaves_the_plans_it_is_given() -> None:
    before = copy.deepcopy(PLANS)
    room.with_settings(PLANS, "New", None, {"lambda_scr": 0.1})
    assert before == PLANS


@pytest.mark.parametrize("given", [{"lambda_src": 0.1}, {"lambda_scr": -1}])
def test_with_settings_refuses_wrong_ones(given: dict[str, Any]) -> None:
    with pytest.raises(SelfRegError, match=r"plans key 'selfreg\."):
        room.with_settings(PLANS, "New", ["2d"], given)


def test_options_follow_the_settings() -> None:
    types = {"some_weight": float, "kind": str, "stages": list}
    parser = room._parser(argparse.ArgumentParser(add_help=False), types)
    parsed = vars(parser.parse_args(shlex.split("--some-weight .5 --kind 7 --stages [1,2] -d 1 -o New")))
    assert [parsed[f"selfreg.{name}"] for name in types] == [0.5, "7", ["[1,2]"]]


def test_the_trainer_of_one_term_is_named_in_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--lambda-scr", "0.1", "-o", "New", "-c", "2d", "-tr", "nnUNetTrainerSelfRegSCR_5epochs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  2d: lambda_scr 0.1, taps stages" in lines
    assert lines[-1] == "  nnUNetv2_train Dataset998_Toy 2d 0 -tr nnUNetTrainerSelfRegSCR_5epochs -p New"


def test_a_term_of_ones_own_can_be_weighted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "trainers.py").write_text(MINE)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "mine"))
    if find_external_trainer("nnUNetTrainerMine") is None:
        pytest.skip("nnU-Net reads nnUNet_extTrainer since 2.8")
    assert run("--lambda-size", "2", "--lambda-ifd", "0", "-o", "New", "-c", "2d", "-tr", "nnUNetTrainerMine") == 0
    assert written(folder)["configurations"]["2d"]["selfreg"] == {"lambda_size": 2.0, "lambda_ifd": 0.0}
    lines = capsys.readouterr().out.splitlines()
    assert "  2d: lambda_scr 0.015, lambda_ifd 0, lambda_size 2, taps stages" in lines
    assert lines[-1].endswith("-tr nnUNetTrainerMine -p New")
    assert "'selfreg.lambda_size' is unknown" in refusal("--lambda-scr", "0.1", "-o", "Other", "-p", "New")


def test_a_trainer_without_selfreg_is_refused(folder: Path) -> None:
    expected = "-tr nnUNetTrainer_5epochs is not a SelfReg trainer and would ignore the settings"
    assert refusal("--lambda-scr", "0.1", "-o", "New", "-tr", "nnUNetTrainer_5epochs") == expected


def test_a_trainer_that_is_not_there_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunetv2_selfreg.trainer.find_nnunet_trainer", lambda name, everywhere=True: None)
    expected = "-tr: this nnU-Net has no trainer nnUNetTrainerSelfReg_7epochs; install what brings it"
    assert refusal("--lambda-scr", "0.1", "-o", "New", "-tr", "nnUNetTrainerSelfReg_7epochs") == expected


def test_a_trainer_that_cannot_be_looked_for_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "broken.py").write_text("class nnUNetTrainerSelfRegMine(:\n")
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "mine"))
    try:
        find_external_trainer("nnUNetTrainerSelfRegMine")
        pytest.skip("nnU-Net reads nnUNet_extTrainer since 2.8")
    except SyntaxError:
        message = refusal("--lambda-scr", "1", "-o", "New", "-tr", "nnUNetTrainerSelfRegMine")
    assert message.startswith(
        "-tr: looking for the trainer nnUNetTrainerSelfRegMine failed: SyntaxError: invalid syntax"
    )
    assert message.endswith("see nnUNetv2_selfreg doctor")


def test_a_setting_must_be_given(folder: Path) -> None:
    assert refusal("-o", "New").startswith("no setting is given; give at least one of --lambda-scr, --lambda-ifd")


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_a_bad_value_is_refused(folder: Path, value: str) -> None:
    assert "'selfreg.lambda_scr' must be finite and at least 0" in refusal("--lambda-scr", value, "-o", "New")
    assert not (folder / "New.json").exists()


def test_text_for_a_number_is_unusable(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--lambda-scr", "much", "-o", "New")
    assert caught.value.code == 2
    assert "--lambda-scr/--lambda_scr: invalid float value: 'much'" in capsys.readouterr().err


def test_settings_in_the_wrong_place_are_refused(folder: Path) -> None:
    (folder / "nnUNetPlans.json").write_text(json.dumps(PLANS | {"selfreg": {"lambda_scr": 0.1}}))
    assert "plans key 'selfreg' would be ignored" in refusal("--lambda-scr", "0.1", "-o", "New")


@pytest.mark.parametrize("there", [{"lambda_src": 0.1}, 0.1, {"lambda_ifd": "much"}])
def test_wrong_settings_in_the_source_are_refused(folder: Path, there: Any) -> None:
    plans = copy.deepcopy(PLANS)
    plans["configurations"]["3d_fullres"]["selfreg"] = there
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    assert "plans key 'selfreg" in refusal("--lambda-scr", "0.1", "-o", "New", "-c", "3d_cascade_fullres")
    assert run("--lambda-scr", "0.1", "-o", "New", "-c", "2d") == 0


def test_a_missing_configuration_is_refused(folder: Path) -> None:
    assert refusal("--lambda-scr", "0.1", "-o", "New", "-c", "2d", "4d") == (
        "configuration '4d' does not exist in the plans; known: 2d, 3d_lowres, 3d_fullres, 3d_cascade_fullres"
    )


def test_a_circle_of_configurations_is_refused() -> None:
    plans = {"configurations": {"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}}}
    with pytest.raises(SelfRegError, match=r"configuration 'a' inherits from itself: a -> b -> a$"):
        room.resolve(plans, "a")


def test_missing_plans_are_named_with_those_that_exist(folder: Path) -> None:
    message = refusal("--lambda-scr", "0.1", "-o", "New", "-p", "Other")
    assert message == f"{folder / 'Other.json'} does not exist; plans there: nnUNetPlans"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"configurations": []}',
        '{"configurations": {"2d": 1}}',
        '{"configurations": {}}',
        '{"configurations": {"2d": {"inherits_from": ["2d"]}}}',
        '{"configurations": {"2d": {"data_identifier": 1}}}',
    ],
)
def test_what_is_no_plans_file_is_refused(folder: Path, content: str) -> None:
    (folder / "nnUNetPlans.json").write_text(content)
    assert "is not a plans file" in refusal("--lambda-scr", "0.1", "-o", "New")


@pytest.mark.parametrize(
    "name", ["", "a/b", "../New", "New.json", "-New", "a b", "a__b", "a_", "splits_final", "nnUNetPlans"]
)
def test_a_name_that_cannot_be_is_refused(folder: Path, name: str) -> None:
    before = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    assert refusal("--lambda-scr", "0.1", f"-o={name}", "--overwrite").startswith(f"-o {name}")
    assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == before


def test_the_source_is_never_overwritten_under_another_name(folder: Path) -> None:
    (folder / "Link.json").symlink_to(folder / "nnUNetPlans.json")
    assert refusal("--lambda-scr", "0.1", "-o", "Link", "--overwrite").startswith("-o Link is the plans file")


def test_a_taken_name_needs_overwrite(folder: Path) -> None:
    assert run("--lambda-scr", "0.1", "-o", "New") == 0
    assert refusal("--lambda-scr", "0.2", "-o", "New").startswith(f"{folder / 'New.json'} exists already")
    assert written(folder)["configurations"]["2d"]["selfreg"] == {"lambda_scr": 0.1}
    assert run("--lambda-scr", "0.2", "-o", "New", "--overwrite") == 0
    assert written(folder)["configurations"]["2d"]["selfreg"] == {"lambda_scr": 0.2}


@pytest.mark.parametrize("failing", ["write", "replace"])
def test_a_failed_write_leaves_everything_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    (folder / "New.json").write_text("{}")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def write_half(path: Path, text: str, **_: Any) -> None:
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError(28, "No space left on device")

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    target, name, double = (Path, "write_text", write_half) if failing == "write" else (os, "replace", refuse)
    monkeypatch.setattr(target, name, double)
    message = refusal("--lambda-scr", "0.1", "-o", "New", "--overwrite")
    assert message.startswith(f"{folder / 'New.json'} cannot be written: No space left on device")
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SelfRegError, match=r"file/New\.json cannot be written: File exists"):
        room.write_json(tmp_path / "file" / "New.json", {})


def test_the_file_has_the_usual_rights(folder: Path) -> None:
    assert run("--lambda-scr", "0.1", "-o", "New") == 0
    assert (folder / "New.json").stat().st_mode == (folder / "nnUNetPlans.json").stat().st_mode
