"""`nnUNetv2_selfreg inspect`: what the stages of a trained network look at, and how alike their channels are."""

import argparse
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import new_folder

if TYPE_CHECKING:
    from nnunetv2_selfreg.inspect.measure import Inspection

SHOWN = 2  # cases whose Grad-CAM is drawn


def main(arguments: Sequence[str]) -> int:
    """Inspects one model, or compares two.

    Args:
        arguments: The command line after `nnUNetv2_selfreg inspect`.

    Returns:
        The exit code, 0.

    Raises:
        SelfRegError: Something asked for is not there or does not fit, or the report cannot be written.
    """
    parsed = parse(arguments)
    if find_spec("captum") is None:
        raise SelfRegError('inspect needs captum: pip install "nnunetv2-selfreg[inspect]"')
    if parsed.cases < 1:
        raise SelfRegError(f"--cases {parsed.cases}: inspect at least one case")
    from nnunetv2_selfreg.inspect.report import PAGE, VALUES, Report, may_replace

    output = parsed.output.expanduser().absolute()
    with new_folder(output, partial(may_replace, overwrite=parsed.overwrite)) as folder:
        try:
            report = Report(*measure(parsed))
        except OSError as error:
            raise SelfRegError(f"{error.filename or 'a file'} cannot be read: {error.strerror or error}") from None
        report.write(folder)
    print(f"wrote {output / PAGE}, its plots and {VALUES}")
    return 0


def measure(parsed: argparse.Namespace) -> "tuple[list[Inspection], dict[str, Any]]":
    """Measures each model on each case.

    Returns:
        The inspections, and what was asked for, by name.
    """
    import torch
    from tqdm import tqdm

    from nnunetv2_selfreg.inspect.cases import find_cases, prepare, spread
    from nnunetv2_selfreg.inspect.measure import Inspection
    from nnunetv2_selfreg.inspect.model import InspectedModel, check_comparable, common_fold

    if parsed.device == "cuda" and not torch.cuda.is_available():
        raise SelfRegError("--device cuda: PyTorch finds no such device here; use --device cpu")
    device = parsed.device or ("cuda" if torch.cuda.is_available() else "cpu")
    folders = [parsed.model] + ([parsed.compare] if parsed.compare else [])
    fold = parsed.fold or common_fold(folders, parsed.checkpoint)
    models = [InspectedModel(folder, fold, parsed.checkpoint, device) for folder in folders]
    if len(models) == 2:
        check_comparable(*models)
    model = models[0]
    ending = model.predictor.dataset_json["file_ending"]
    found = find_cases(parsed.images, parsed.labels, ending, model.channels, model.is_natural)
    cases = spread(found, parsed.cases)
    shown = [case.name for case in spread(cases, SHOWN)]
    letters = "AB" if len(models) == 2 else [""]
    inspections = [Inspection(model, letter) for model, letter in zip(models, letters, strict=True)]
    with tqdm(cases, unit="case") as progress:
        for files in progress:
            progress.set_description(files.name)
            for inspection in inspections:
                inspection.add(prepare(files, inspection.model.predictor), files.name in shown)
    return inspections, {
        "checkpoint": parsed.checkpoint,
        "reference": parsed.labels is not None,
        "cases_found": len(found),
        "cases_shown": shown,
        "channels": model.channels,
        "shown_as": "RGB" if model.is_rgb else "grey",
        "device": device,
    }


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line after `nnUNetv2_selfreg inspect`."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_selfreg inspect",
        description="Writes a report on what the stages of a trained network look at (Grad-CAM) and how alike their "
        "channels are, of an nnU-Net v2 model trained with SelfReg or not; all but the second stage of the cascade.",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL_FOLDER", help="nnUNet_results/DATASET/TRAINER__PLANS__CONFIG")
    add("--compare", type=Path, metavar="MODEL_FOLDER", help="another model, on the same cases")
    images = "images named as nnU-Net's, or one of them"
    add("--images", type=Path, required=True, metavar="FOLDER|CASE", help=images)
    add("--labels", type=Path, metavar="FOLDER", help="their references; default: the predictions")
    add("-o", dest="output", type=Path, required=True, metavar="OUT", help="new folder for the report")
    add("-f", dest="fold", metavar="FOLD", help="default: the first that has the checkpoint")
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
