"""`nnUNetv2_selfreg inspect`: what the stages of a trained network look at, and how alike their channels are."""

import argparse
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import may_replace_report, new_folder


def main(arguments: Sequence[str]) -> int:
    """Inspects one model, or compares two, of each one or several trainings.

    Args:
        arguments: The command line after `nnUNetv2_selfreg inspect`.

    Returns:
        The exit code, 0.

    Raises:
        SelfRegError: Something asked for is not there or does not fit, or the report cannot be written.
    """
    parsed = parse(arguments)
    if find_spec("captum") is None:
        raise SelfRegError('inspect needs captum: pip install "/path/to/nnunetv2-selfreg[inspect]"')
    if parsed.cases < 1:
        raise SelfRegError(f"--cases {parsed.cases}: inspect at least one case")
    from nnunetv2_selfreg.inspect.measure import measure
    from nnunetv2_selfreg.inspect.report import PAGE, VALUES, Report, is_report

    output = parsed.output.expanduser().absolute()
    with new_folder(output, partial(may_replace_report, is_report=is_report, overwrite=parsed.overwrite)) as folder:
        try:
            report = Report(*measure(parsed))
        except OSError as error:
            raise SelfRegError(f"{error.filename or 'a file'} cannot be read: {error.strerror or error}") from None
        report.write(folder)
    if table := report.as_text():
        print(table)
    print(f"wrote {output / PAGE}, its plots and {VALUES}")
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line after `nnUNetv2_selfreg inspect`."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_selfreg inspect",
        description="Writes a report on what the stages of a trained network look at (Grad-CAM) and how alike their "
        "channels are, of an nnU-Net v2 model trained with SelfReg or not; all but the second stage of the cascade.",
    )
    add = parser.add_argument
    folder = "nnUNet_results/DATASET/TRAINER__PLANS__CONFIG; more of them are repetitions of the same training"
    add("model", type=Path, nargs="+", metavar="MODEL_FOLDER", help=folder)
    another = "another model, on the same cases; once for each repetition"
    add("--compare", type=Path, action="append", metavar="MODEL_FOLDER", help=another)
    images = "images named as nnU-Net's, or one of them"
    add("--images", type=Path, required=True, metavar="FOLDER|CASE", help=images)
    add("--labels", type=Path, metavar="FOLDER", help="their references; default: the predictions")
    add("-o", dest="output", type=Path, required=True, metavar="OUT", help="new folder for the report")
    add("-f", dest="folds", nargs="+", metavar="FOLD", help="one or several; default: the first with the checkpoint")
    add("-chk", dest="checkpoint", default="checkpoint_final.pth", help="default: checkpoint_final.pth")
    add(
        "--cases",
        type=int,
        default=20,
        metavar="N",
        help="at most so many, spread over the names; default: %(default)s",
    )
    add("--device", choices=("cpu", "cuda"), help="default: cuda when there is one, else cpu")
    add("--overwrite", action="store_true", help="replace a report that is there")
    return parser.parse_args(arguments)
