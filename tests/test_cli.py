"""The command line: help of every command, quick start-up, and how a command that fails ends."""

import os
import subprocess
import sys
import types

import pytest

from nnunetv2_selfreg import cli
from nnunetv2_selfreg.errors import SelfRegError


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "-h"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: nnUNetv2_selfreg {command} ")


@pytest.mark.parametrize("option", ["-h", "--version"])
def test_help_and_version_come_without_importing_torch(option):
    program = (
        "import sys, atexit; from nnunetv2_selfreg import cli; "
        "atexit.register(lambda: print('torch' in sys.modules, 'nnunetv2' in sys.modules)); "
        f"cli.main([{option!r}])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    shown, imported = done.stdout.rsplit("\n", 2)[:2]
    assert imported == "False False"
    if option == "-h":
        assert all(f"\n  {command} " in shown for command in cli.COMMANDS)


def test_without_a_command_there_is_help(capsys):
    assert cli.main([]) == 2
    shown = capsys.readouterr().out
    assert all(f"\n  {command} " in shown for command in cli.COMMANDS)


def test_a_reader_who_goes_away_ends_a_command_silently():
    program = (
        "import sys, types; from nnunetv2_selfreg import cli; cli.COMMANDS['prints'] = ('a_command', ''); "
        "sys.modules['a_command'] = types.SimpleNamespace("
        "main=lambda _: [print(i) for i in range(99999)]); "
        "sys.exit(cli.main(['prints']))"
    )
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered
    )
    process.stdout.readline()
    process.stdout.close()
    assert (process.wait(), process.stderr.read()) == (1, b"")
    process.stderr.close()


def test_an_unknown_command_is_named(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["lederboard"])
    assert end.value.code == 2
    assert "'lederboard'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (SelfRegError("no such thing; take another"), 1, "no such thing; take another"),
        (FileNotFoundError(2, "No such file or directory", "/a"), 1, "/a: No such file or directory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_command_that_fails_ends_with_one_line(monkeypatch, capsys, error, code, line):
    def fail(arguments):
        raise error

    monkeypatch.setitem(sys.modules, "a_command", types.SimpleNamespace(main=fail))
    monkeypatch.setitem(cli.COMMANDS, "fails", ("a_command", ""))
    assert cli.main(["fails"]) == code
    assert capsys.readouterr().err == f"nnUNetv2_selfreg fails: {line}\n"


def test_an_error_of_the_system_without_a_file_name_says_what_it_is(monkeypatch, capsys):
    def fail(arguments):
        raise OSError("the network is down")

    monkeypatch.setattr("nnunetv2_selfreg.commands.doctor.main", fail)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err == "nnUNetv2_selfreg doctor: the network is down\n"
