import sys

import pytest

from nnunetv2_selfreg.commands import steps
from nnunetv2_selfreg.commands.steps import Commands, PredictionWatch, TrainingWatch, Watch
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.progress import epoch_line

STAMP = "2026-01-02 03:04:05.678901: "
LABELS = ["RV", "myocardium", "LV"]


@pytest.fixture
def python(monkeypatch):
    """Makes the only command that is installed a Python interpreter."""
    monkeypatch.setattr(steps.shutil, "which", lambda name, path=None: sys.executable if name == "python" else None)


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (
            "[np.float32(0.5), np.float32(0.25), np.float32(0.75)]",
            "pseudo Dice 0.50 (RV 0.50, myocardium 0.25, LV 0.75)",
        ),
        ("[0.5, 0.25, 0.75]", "pseudo Dice 0.50 (RV 0.50, myocardium 0.25, LV 0.75)"),
        ("[np.float32(0.0), np.float32(1e-04), np.float32(nan)]", "pseudo Dice nan (RV 0.00, myocardium 0.00, LV nan)"),
    ],
)
def test_an_epoch_becomes_one_line(printed, shown):
    watch = TrainingWatch(5, LABELS)
    lines = [
        "Epoch 2 ",
        "Current learning rate: 0.00654 ",
        epoch_line({"scr": 0.649, "ifd": 1.475}, {"scr": 0.015, "ifd": 0.015}, 0.07),
        "train_loss -0.3894 ",
        f"Pseudo dice {printed} ",
        "Epoch time: 40.33 s",
    ]
    said = [watch.read(STAMP + line + "\n") for line in lines]
    assert said[:-1] == [None] * 5
    assert said[-1] == f"epoch 3 of 5: SelfReg 7.0% of the loss, {shown}, 40 s"
    assert watch.doing == "epoch 3 of 5"


@pytest.mark.parametrize(
    "line", ["", "\n", "Pseudo dice what?", "Epoch time: soon", "Epoch", "|####| 3/4 [00:01<?, ?it/s]"]
)
def test_lines_of_another_form_are_passed_over(line):
    assert TrainingWatch(5, LABELS).read(line) is None
    assert PredictionWatch(3).read(line) is None


def test_predicted_cases_are_counted():
    watch = PredictionWatch(3)
    for number in (21, 22):
        watch.read(f"Predicting phantom_{number:03d}:\n")
    assert watch.doing == "case 2 of 3, phantom_022"


def test_a_command_is_shown_run_with_its_settings_and_kept(tmp_path, python, capfd):
    code = "import os; print(os.environ['nnUNet_raw'], os.environ['EXTRA'])"
    Commands({"nnUNet_raw": "/some where"}, tmp_path).run("01_name", ["python", "-c", code], Watch(), EXTRA="0")
    shown = capfd.readouterr().out
    assert shown.startswith("$ EXTRA=0 python -c 'import os;")
    assert (tmp_path / "01_name.log").read_text() == "/some where 0\n"


def test_a_failed_command_ends_with_its_last_lines_and_names_its_log(tmp_path, python, capfd):
    code = "for i in range(90): print('line', i)\nraise SystemExit(3)"
    with pytest.raises(SelfRegError, match=r"python ended with exit code 3; all that it printed is in .*01_name\.log"):
        Commands({}, tmp_path).run("01_name", ["python", "-c", code], Watch())
    shown = capfd.readouterr().out
    assert "line 89" in shown
    assert "line 69" not in shown
    assert len((tmp_path / "01_name.log").read_text().splitlines()) == 90


def test_a_missing_command_is_named(tmp_path, python):
    with pytest.raises(SelfRegError, match="nnUNetv2_train is not installed"):
        Commands({}, tmp_path).run("03_training", ["nnUNetv2_train"], Watch())


def test_settings_are_shown_as_a_shell_takes_them(tmp_path, capsys):
    Commands({"nnUNet_raw": "/some where"}, tmp_path).show_settings()
    assert capsys.readouterr().out == "$ export nnUNet_raw='/some where'\n"
