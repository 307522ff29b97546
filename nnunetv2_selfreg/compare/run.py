"""`nnUNetv2_selfreg compare`: is one trained model better than another, and how sure is that?"""

import argparse
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from nnunetv2_selfreg.compare.pair import frame, matched
from nnunetv2_selfreg.compare.report import PAGE, ComparisonReport, is_report
from nnunetv2_selfreg.compare.summaries import Training
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import may_replace_report, new_folder


def main(arguments: Sequence[str]) -> int:
    """Compares two models, of each one or several trainings.

    Args:
        arguments: The command line after `nnUNetv2_selfreg compare`.

    Returns:
        The exit code, 0.

    Raises:
        SelfRegError: The models cannot be compared, or the report cannot be written.
    """
    parsed = parse(arguments)
    if not 0 < parsed.margin < 100:
        raise SelfRegError(f"--margin {parsed.margin:g}: give Dice points above 0 and below 100")
    if parsed.pictures < 0:
        raise SelfRegError(f"--pictures {parsed.pictures}: give a number of cases")
    patient = patient_of(parsed.patient)
    pairs = [(parsed.model_a, parsed.model_b), *parsed.again]
    # a link has the name that nnU-Net sees
    folders = [Path(os.path.abspath(path.expanduser())) for pair in pairs for path in pair]
    real = list(map(os.path.realpath, folders))
    if real[0] == real[1]:
        raise SelfRegError(f"MODEL_A and MODEL_B are the same folder, {real[0]}")
    if twice := {path for path in real if real.count(path) > 1}:
        raise SelfRegError(f"{min(twice)} is given twice; a repetition is a training of its own")
    output = parsed.output.expanduser().absolute()
    with new_folder(output, partial(may_replace_report, is_report=is_report, overwrite=parsed.overwrite)) as folder:
        try:
            read = [Training.read(path) for path in folders]
        except OSError as error:
            raise SelfRegError(f"{error.filename or 'a file'} cannot be read: {error.strerror or error}") from None
        trainings, notes = matched(read, parsed.common_only, parsed.other_plans)
        a, b = trainings[0::2], trainings[1::2]
        report = ComparisonReport(a, b, frame(a, patient), frame(b, patient), parsed.margin / 100, notes)
        report.write(folder, parsed.pictures, parsed.images and parsed.images.expanduser())
    print(report.text())
    print(f"wrote {output / PAGE}, its plots, comparison.md and cases.csv")
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line after `nnUNetv2_selfreg compare`."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_selfreg compare",
        description="Compares two trained models by the Dice that nnU-Net computed: case by case, fold by fold. A "
        "difference is the second model minus the first.",
    )
    add = parser.add_argument
    folder = "nnUNet_results/DATASET/TRAINER__PLANS__CONFIG, or a folder of predictions with nnU-Net's summary.json"
    add("model_a", type=Path, metavar="MODEL_A", help=folder)
    add("model_b", type=Path, metavar="MODEL_B", help="the model that is compared with it")
    again = "the same two models, trained once more; once for each repetition"
    add("--again", type=Path, nargs=2, action="append", default=[], metavar=("MODEL_A", "MODEL_B"), help=again)
    add("-o", dest="output", type=Path, required=True, metavar="OUT", help="new folder for the report")
    patient = (
        "regular expression that finds the patient in a case's name, such as 'patient\\d+'; default: each case is one"
    )
    add("--patient", metavar="PATTERN", help=patient)
    margin = "Dice points from which on a case counts as better or worse; default: %(default)s"
    add("--margin", type=float, default=1.0, metavar="POINTS", help=margin)
    add("--common-only", action="store_true", help="leave out folds and cases that not all trainings have")
    add("--other-plans", action="store_true", help="compare although the plans differ in more than the key selfreg")
    pictures = "pictures of the N cases that differ most, where predictions and images are there; default: %(const)s"
    add("--pictures", type=int, nargs="?", const=4, default=0, metavar="N", help=pictures)
    images = "folder of the images; default: those of the data set in nnUNet_raw"
    add("--images", type=Path, metavar="FOLDER", help=images)
    add("--overwrite", action="store_true", help="replace a report that is there")
    return parser.parse_args(arguments)


def patient_of(pattern: str | None) -> Callable[[str], str]:
    """What names the patient of a case.

    Args:
        pattern: A regular expression; its first group, or all that it finds, is the patient. None: each case is one.

    Raises:
        SelfRegError: It is no regular expression; or, when called, a case has nothing that it finds.
    """
    if pattern is None:
        return str
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SelfRegError(f"--patient {pattern!r} is no regular expression: {error}") from None

    def patient(case: str) -> str:
        found = compiled.search(case)
        name: str | None = found[min(compiled.groups, 1)] if found else None
        if not name:
            raise SelfRegError(f"--patient {pattern!r} finds nothing in the case {case!r}")
        return name

    return patient
