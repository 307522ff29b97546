"""The doctor on this installation, on none at all, and on a small nnU-Net with the installed one's search."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from nnunetv2_selfreg.commands import doctor
from nnunetv2_selfreg.commands.doctor import Check

REPOSITORY = Path(__file__).parents[2]
TRAINER_FILE = REPOSITORY / "trainers" / "nnUNetTrainerSelfReg.py"
REINSTALL = f"python -m pip install --force-reinstall --no-deps {doctor.origin('nnunetv2-selfreg')}"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def python(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    unset = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=unset | environment
    )


def set_version(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: version)


def statuses(output: str) -> dict[str, str]:
    lines = [line for line in output.splitlines()[:-1] if not line.startswith(" ")]
    assert all(re.match(r"(ok|problem|note) +\S+ +\S", line) for line in lines), output
    return {line.split()[1]: line.split()[0] for line in lines}


def assert_conclusion_fits(done: "subprocess.CompletedProcess[str]") -> None:
    problems = list(statuses(done.stdout).values()).count("problem")
    conclusion = {0: "everything is in order", 1: "1 problem"}.get(problems, f"{problems} problems")
    assert done.stdout.splitlines()[-1] == conclusion
    assert done.returncode == (1 if problems else 0)


@pytest.mark.longer
def test_this_installation(tmp_path: Path) -> None:
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    environment = {name: str(tmp_path / name) for name in FOLDERS}
    environment["PYTHONWARNINGS"] = "ignore"  # torch's, of an old driver
    done = python("-m", "nnunetv2_selfreg.cli", "doctor", **environment)
    assert done.stderr == ""
    found = statuses(done.stdout)
    fine = ["nnunetv2-selfreg", "nnunetv2", "torch", "dynamic-network-architectures", "batchgenerators", "trainers"]
    assert {name: found[name] for name in [*fine, *FOLDERS]} == dict.fromkeys([*fine, *FOLDERS], "ok")
    assert "nnUNetTrainerSelfReg is found in nnU-Net's own folder" in done.stdout
    assert_conclusion_fits(done)


def test_nothing_installed_and_no_folders(tmp_path: Path) -> None:
    # the bare folder that the wheel leaves where there is no nnU-Net is not an nnU-Net
    bare = tmp_path / "nnunetv2" / "training" / "nnUNetTrainer"
    bare.mkdir(parents=True)
    shutil.copy(TRAINER_FILE, bare)
    missing = str(tmp_path / "not there")
    done = python(
        *("-S", "-m", "nnunetv2_selfreg.cli", "doctor"),
        PYTHONPATH=f"{REPOSITORY}{os.pathsep}{tmp_path}",
        nnUNet_preprocessed=missing,
    )
    assert done.stderr == ""
    found = statuses(done.stdout)
    assert found["nnunetv2-selfreg"] == found["trainers"] == "note"
    for name in ("nnunetv2", "torch", "batchgenerators", *FOLDERS):
        assert found[name] == "problem"
    for remedy in (
        'python -m pip install "nnunetv2>=2.6"',
        "export nnUNet_raw=/path/to/nnUNet_raw",
        f"mkdir -p '{missing}'",
    ):
        assert f"\n         -> {remedy}\n" in done.stdout
    assert_conclusion_fits(done)


@pytest.mark.parametrize(
    ("found", "code", "last"),
    [
        (["ok", "note"], 0, "everything is in order"),
        (["problem", "ok"], 1, "1 problem"),
        (["problem", "problem"], 1, "2 problems"),
    ],
)
def test_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: list[str], code: int, last: str
) -> None:
    monkeypatch.setattr(doctor, "checks", lambda: [Check("thing", status, "") for status in found])
    assert doctor.main([]) == code
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_lines_are_aligned() -> None:
    checks = [Check("dynamic-network-architectures", "ok", "TEXT"), Check("x", "problem", "TEXT", ("do this",))]
    first, second, remedy = "\n".join(map(str, checks)).splitlines()
    assert first.index("TEXT") == second.index("TEXT")
    assert remedy == "         -> do this"


# -- the three folders


def test_folder_that_is_fine_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    assert doctor.check_folder("nnUNet_results") == Check("nnUNet_results", "ok", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [None, ""])
def test_folder_that_is_not_set(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("nnUNet_results", raising=False)
    if value is not None:
        monkeypatch.setenv("nnUNet_results", value)
    expected = Check("nnUNet_results", "problem", "not set", ("export nnUNet_results=/path/to/nnUNet_results",))
    assert doctor.check_folder("nnUNet_results") == expected


def test_folder_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "file"))
    check = doctor.check_folder("nnUNet_raw", writable=False)
    assert (check.status, check.text) == ("problem", f"{tmp_path / 'file'} is not a folder")


def test_folder_that_can_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    # as the system answers for it; root may write everywhere, so a folder's mode would not show it in a container
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert doctor.check_folder("nnUNet_raw", writable=False).status == "ok"
    check = doctor.check_folder("nnUNet_raw")
    assert (check.status, check.text) == ("problem", f"{tmp_path} cannot be written")
    assert check.remedy == (f"chmod u+rwx {shlex.quote(str(tmp_path))}", "or export nnUNet_raw=/path/to/nnUNet_raw")


# -- versions


@pytest.mark.parametrize(("version", "status"), [("2.5.1", "problem"), ("2.6.0", "ok"), ("2.10", "ok"), (None, "note")])
def test_nnunet_versions(monkeypatch: pytest.MonkeyPatch, version: str | None, status: str) -> None:
    set_version(monkeypatch, version)
    check = doctor.check_nnunet()
    assert check.status == status
    assert check.remedy == (('python -m pip install "nnunetv2>=2.6"',) if status == "problem" else ())


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("2.5.1", "problem"),
        ("2.8.0", "ok"),
        ("2.9.1", "problem"),
        ("2.9.0+cu128", "problem"),
        ("2.10.0", "ok"),
        (None, "problem"),
    ],
)
def test_torch_versions(monkeypatch: pytest.MonkeyPatch, version: str | None, status: str) -> None:
    set_version(monkeypatch, version)
    check = doctor.check_package("torch")
    assert check.status == status


def test_package_that_is_missing() -> None:
    remedy = ("python -m pip install no-such-package-here",)
    assert doctor.check_package("no-such-package-here") == Check(
        "no-such-package-here", "problem", "not installed", remedy
    )


# -- torchvision


@pytest.mark.parametrize(
    ("code", "timm", "status"),
    [
        ("", "1.0.22", "ok"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "1.0.22", "problem"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", None, "note"),
        ("import os; os._exit(9)", "1.0.22", "problem"),
    ],
)
def test_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, timm: str | None, status: str) -> None:
    (tmp_path / "torchvision.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    set_version(monkeypatch, timm)
    check = doctor.check_torchvision()
    assert check.status == status
    if "raise" in code:
        assert "RuntimeError: operator torchvision::nms does not exist" in check.text
    if status == "problem":
        assert check.remedy[0].startswith("python -m pip install --force-reinstall torch torchvision")


# -- the nnUNetv2_train that the shell finds


def test_train_command_of_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = Path(sysconfig.get_path("scripts"), "nnUNetv2_train")
    monkeypatch.setenv("PATH", str(installed.parent))
    assert doctor.check_train_command() == Check("nnUNetv2_train", "ok", str(installed))
    (tmp_path / "nnUNetv2_train").symlink_to(installed)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.check_train_command().status == "ok"


@pytest.mark.parametrize("folder", ["bin", "other"])
def test_train_command_elsewhere(tmp_path: Path, folder: str) -> None:
    """`bin` is where `pip install --user` puts commands."""
    command = tmp_path / folder / "nnUNetv2_train"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    code = "from nnunetv2_selfreg.commands.doctor import check_train_command; print(check_train_command())"
    found = python("-c", code, PYTHONUSERBASE=str(tmp_path), PATH=str(command.parent)).stdout
    another = f" may be another Python's, this one's is in {sys.prefix}"
    assert re.match(rf"{'ok' if folder == 'bin' else 'note'} +nnUNetv2_train +{re.escape(str(command))}", found)
    assert (another in found) == (folder == "other")


def test_train_command_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.check_train_command().status == "note"


# -- the trainers


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """An nnU-Net outside site-packages: the installed one's search, and next to nothing to be found by it."""
    folder = doctor.nnunet_folder()
    assert folder is not None
    checkout = tmp_path / "checkout" / "nnunetv2"
    for package in ("", "utilities", "training", "training/nnUNetTrainer", "training/nnUNetTrainer/primus"):
        (checkout / package).mkdir(parents=True, exist_ok=True)
        (checkout / package / "__init__.py").touch()
    for file in ("paths.py", "utilities/find_class_by_name.py", "utilities/find_objects.py"):
        if Path(folder, file).is_file():
            shutil.copy(Path(folder, file), checkout / file)
    (checkout / "training/nnUNetTrainer/nnUNetTrainer.py").write_text("class nnUNetTrainer: pass\n")
    return checkout


@pytest.fixture
def ext_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "ext folder"
    folder.mkdir()
    shutil.copy(TRAINER_FILE, folder)
    return folder


reads_ext_trainer = pytest.mark.skipif(doctor.numbers("nnunetv2") < (2, 8), reason="nnU-Net reads it since 2.8.0")


def look_for_trainers(checkout: Path, **environment: str) -> str:
    path = os.pathsep.join([str(checkout.parent), str(REPOSITORY)])
    code = "from nnunetv2_selfreg.commands.doctor import check_nnunet, check_trainers; print(check_trainers())"
    done = python("-c", code, PYTHONPATH=path, **environment)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.longer
def test_trainers_in_nnunets_folder(checkout: Path, ext_folder: Path) -> None:
    folder = checkout / "training" / "nnUNetTrainer"
    shutil.copy(TRAINER_FILE, folder)
    found = look_for_trainers(checkout, nnUNet_extTrainer=str(ext_folder))
    assert re.fullmatch(
        rf"ok +trainers +nnUNetTrainerSelfReg is found in nnU-Net's own folder, {re.escape(str(folder))}\n", found
    )


@pytest.mark.longer
@reads_ext_trainer
def test_trainers_through_ext_trainer(checkout: Path, ext_folder: Path) -> None:
    found = look_for_trainers(checkout, nnUNet_extTrainer=f"/not/there{os.pathsep}{ext_folder}")
    assert re.fullmatch(
        rf"ok +trainers +nnUNetTrainerSelfReg is found through nnUNet_extTrainer, {re.escape(str(ext_folder))}\n", found
    )


@reads_ext_trainer
def test_trainers_behind_a_broken_torchvision(checkout: Path, ext_folder: Path) -> None:
    folder = checkout / "training" / "nnUNetTrainer"
    (folder / "primus" / "broken.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    found = look_for_trainers(checkout, nnUNet_extTrainer=str(ext_folder))
    assert found.startswith("problem  trainers ")
    assert "fails: RuntimeError: operator torchvision::nms does not exist\n" in found
    copy = shlex.join(["cp", str(ext_folder / "nnUNetTrainerSelfReg.py"), str(folder)])
    assert f"mend torchvision, or {copy}\n" in found


@reads_ext_trainer
def test_trainers_missing_from_a_checkout(checkout: Path) -> None:
    found = look_for_trainers(checkout)
    missing = f"nnU-Net does not find nnUNetTrainerSelfReg, it is not in {checkout}/training/nnUNetTrainer"
    assert re.match(rf"problem +trainers +{re.escape(missing)}\n", found)
    installed = doctor.our_trainer_folder()
    assert found.endswith(f"\n         -> export nnUNet_extTrainer={shlex.quote(str(installed))}\n")


@pytest.mark.parametrize("trainer_file", ["import no_such_module\n", "raise SystemExit\n"])
def test_trainers_that_cannot_be_imported(checkout: Path, trainer_file: str) -> None:
    (checkout / "training" / "nnUNetTrainer" / TRAINER_FILE.name).write_text(trainer_file)
    found = look_for_trainers(checkout)
    assert re.match(r"problem +trainers +nnU-Net's search for nnUNetTrainerSelfReg fails: (Module|SystemExit)", found)
    assert f"-> {REINSTALL}\n" in found


@pytest.mark.parametrize(
    ("version", "ext", "remedies"),
    [
        ("2.8.1", "", ["export nnUNet_extTrainer='/a b'"]),
        ("2.8.1", "/mine", ["export nnUNet_extTrainer=\"$nnUNet_extTrainer:\"'/a b'"]),
        ("2.7.0", "", ["cp '/a b/nnUNetTrainerSelfReg.py' /nnunet", "or upgrade nnU-Net to 2.8.0 or newer"]),
    ],
)
def test_remedies_for_trainers_elsewhere(
    monkeypatch: pytest.MonkeyPatch, version: str, ext: str, remedies: list[str]
) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", ext)
    set_version(monkeypatch, version)
    monkeypatch.setattr(doctor, "our_trainer_folder", lambda: "/a b")
    found = doctor.trainer_remedy("/nnunet", [], "not found")
    assert len(found) == len(remedies)
    assert all(line.startswith(remedy) for line, remedy in zip(found, remedies, strict=True))


@pytest.mark.parametrize(("version", "remedy"), [("0.1.0", REINSTALL), (None, "--no-deps /path/to/nnunetv2-selfreg")])
def test_remedies_for_trainers_nowhere(monkeypatch: pytest.MonkeyPatch, version: str | None, remedy: str) -> None:
    set_version(monkeypatch, version)
    monkeypatch.setattr(doctor, "our_trainer_folder", lambda: None)
    assert doctor.trainer_remedy("/nnunet", [], "not found")[0].endswith(remedy)


@pytest.mark.parametrize(
    ("version", "value", "text"),
    [
        ("2.8.1", None, "not set"),
        ("2.7.0", "/not/there", "does not read it"),
        ("2.8.1", "/not/there", "names what is not there: /not/there"),
        ("2.8.1", str(REPOSITORY), str(REPOSITORY)),
    ],
)
def test_ext_trainer(monkeypatch: pytest.MonkeyPatch, version: str, value: str | None, text: str) -> None:
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    if value is not None:
        monkeypatch.setenv("nnUNet_extTrainer", value)
    set_version(monkeypatch, version)
    check = doctor.check_ext_trainer()
    assert check.status == ("ok" if value == str(REPOSITORY) else "note")
    assert text in check.text


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"url": "https://host/x", "vcs_info": {"vcs": "git", "commit_id": "0"}}, "git+https://host/x"),
        ({"url": "https://host/x.zip", "subdirectory": "a"}, "'https://host/x.zip#subdirectory=a'"),
        ({"url": "file:///home/me/nn%20UNet"}, "'/home/me/nn UNet'"),
        (None, "/path/to/x"),
    ],
)
def test_where_a_package_came_from_as_pip_takes_it(record, expected, tmp_path, monkeypatch) -> None:
    """PEP 610 keeps the kind of a repository apart from its address."""
    folder = tmp_path / "x-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 1.0\n")
    if record:
        (folder / "direct_url.json").write_text(json.dumps(record))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert doctor.origin("x") == expected


def test_an_editable_checkout_that_our_folder_hides(tmp_path: Path) -> None:
    """pip's finder for an editable checkout comes after the search of site-packages, where our wheel makes a folder."""
    trainers = tmp_path / "nnunetv2" / "training" / "nnUNetTrainer"
    trainers.mkdir(parents=True)
    shutil.copy(TRAINER_FILE, trainers)
    record = tmp_path / "nnunetv2-2.8.1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: nnunetv2\nVersion: 2.8.1\n")
    (record / "direct_url.json").write_text('{"url": "file:///home/me/nn%20UNet", "dir_info": {"editable": true}}')
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(REPOSITORY)!r}]; "
    code += "from nnunetv2_selfreg.commands.doctor import check_nnunet, check_trainers; print(check_nnunet())"
    found = python("-S", "-c", code).stdout
    assert found.startswith("problem  nnunetv2 ")
    assert "2.8.1, an editable checkout that the folder of our trainers hides\n" in found
    assert "-> python -m pip install -e '/home/me/nn UNet' --config-settings editable_mode=compat\n" in found
    assert "-> then export nnUNet_extTrainer=" in found
