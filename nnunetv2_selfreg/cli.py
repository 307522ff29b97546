"""`nnUNetv2_selfreg COMMAND ...`: each command lives in the module named here and is imported only when asked for."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.errors import SelfRegError

COMMANDS = {
    "doctor": ("nnunetv2_selfreg.commands.doctor", "is this installation right, and if not, what to do"),
    "compare": ("nnunetv2_selfreg.compare.run", "is one trained model better than another, case by case, fold by fold"),
    "convert": ("nnunetv2_selfreg.benchmarks.convert", "a public benchmark's archive to a data set of nnU-Net's"),
    "demo": ("nnunetv2_selfreg.commands.demo", "a guided first run on synthetic cardiac data"),
    "export": ("nnunetv2_selfreg.commands.export", "a trained model for people who do not have this package"),
    "inspect": ("nnunetv2_selfreg.inspect.run", "what the stages of a trained network look at and hold"),
    "leaderboard": (
        "nnunetv2_selfreg.benchmarks.leaderboard",
        "score predictions by a benchmark's own rule; write the table",
    ),
    "plans": ("nnunetv2_selfreg.commands.plans", "write a plans file with other SelfReg settings"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The command line without the program's name; the process's own when left out.

    Returns:
        The exit code: 0 when all is well, 1 when the command found something wrong, 2 for unusable arguments, 130
        when it was interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_selfreg",
        description="SelfReg-UNet's losses for nnU-Net v2. Train with nnU-Net's own command: "
        "nnUNetv2_train DATASET CONFIGURATION FOLD -tr nnUNetTrainerSelfReg",
        epilog="commands:\n" + "\n".join(f"  {name:<11} {text}" for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nnunetv2-selfreg {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its arguments; try COMMAND -h")
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help()
        return 2
    parsed = parser.parse_args(arguments)
    try:
        code: int = import_module(COMMANDS[parsed.command][0]).main(parsed.rest)
        sys.stdout.flush()  # else at the end of the process, where a reader who went away is an error
        return code
    except SelfRegError as error:
        print(f"nnUNetv2_selfreg {parsed.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"nnUNetv2_selfreg {parsed.command}: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"nnUNetv2_selfreg {parsed.command}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
