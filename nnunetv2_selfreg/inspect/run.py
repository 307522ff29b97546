"""`nnUNetv2_selfreg inspect`: what the stages of a trained network look at, and how alike their channels are."""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.inspect.output import NUMBERS, PAGE, check_output, put

if TYPE_CHECKING:
    import torch

CASES, SHOWN = 20, 2


def main(arguments: Sequence[str]) -> int:
    """Inspects one model, or compares two.

    Args:
        arguments: The command line after `nnUNetv2_selfreg inspect`.

    Returns:
        The exit code, 0.

    Raises:
        SelfRegError: Something asked for is not there or does not fit, or the report cannot be written.
    """
    parsed = _parser().parse_args(arguments)
    if find_spec("captum") is None:
        raise SelfRegError('inspect needs captum: pip install "nnunetv2-selfreg[inspect]"')
    output = parsed.output.expanduser().absolute()
    check_output(output, parsed.overwrite)
    if parsed.cases < 1:
        raise SelfRegError(f"--cases {parsed.cases}: inspect at least one case")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".selfreg_inspect_", dir=output.parent) as staging:
            write = _inspect(parsed)
            folder = Path(staging, "report")
            folder.mkdir()
            write(folder)
            check_output(output, parsed.overwrite)
            put(folder, output, Path(staging, "replaced"))
    except OSError as error:
        reason = f"{error.strerror or error}"
        raise SelfRegError(f"-o {output} cannot be written: {reason}; nothing was left behind") from None
    print(f"wrote {output / PAGE}, its pictures and {NUMBERS}")
    return 0


def _inspect(parsed: argparse.Namespace) -> Callable[[Path], None]:
    """Does the work, which reads only.

    Returns:
        What writes the report into an empty folder.

    Raises:
        SelfRegError: Something cannot be read or does not fit.
    """
    try:
        return _measure(parsed)
    except OSError as error:
        raise SelfRegError(f"{error.filename or 'a file'} cannot be read: {error.strerror or error}") from None


def _measure(parsed: argparse.Namespace) -> Callable[[Path], None]:
    from tqdm import tqdm

    from nnunetv2_selfreg.inspect.cases import find_cases, prepare, spread
    from nnunetv2_selfreg.inspect.measure import Inspection, is_rgb
    from nnunetv2_selfreg.inspect.model import check_comparable, common_fold, open_model
    from nnunetv2_selfreg.inspect.report import write_report

    device = _device(parsed.device)
    folders = [parsed.model] + ([parsed.compare] if parsed.compare else [])
    fold = parsed.fold or common_fold(folders, parsed.checkpoint)
    inspections = [Inspection(open_model(folder, fold, parsed.checkpoint, device.type), device) for folder in folders]
    models = [inspection.model for inspection in inspections]
    if len(models) == 2:
        check_comparable(*models)
    predictor = models[0].predictor
    ending, channels = predictor.dataset_json["file_ending"], len(predictor.dataset_json["channel_names"])
    natural = predictor.plans_manager.image_reader_writer_class.__name__ == "NaturalImage2DIO"
    found = find_cases(parsed.images, parsed.labels, ending, channels, natural)
    cases = spread(found, parsed.cases)
    shown = [case.name for case in spread(cases, SHOWN)]
    with tqdm(cases, unit="case") as progress:
        for files in progress:
            for inspection in inspections:
                progress.set_description(files.name)
                case = prepare(files, inspection.model.predictor)
                for _ in tqdm(inspection.add(case, files.name in shown), desc="patches", unit="", leave=False):
                    pass
    settings = {
        "checkpoint": parsed.checkpoint,
        "reference": parsed.labels is not None,
        "cases_found": len(found),
        "cases_shown": shown,
        "channels": channels,
        "shown_as": "RGB" if is_rgb(models[0]) else "grey",
        "device": device.type,
    }
    versions = {"nnunetv2-selfreg": __version__} | {name: version(name) for name in ("nnunetv2", "torch", "captum")}
    return partial(
        write_report,
        inspections=inspections,
        settings=settings,
        versions=versions,
        unit="pixels" if natural else "mm",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_selfreg inspect",
        description="Writes a report on what the stages of a trained network look at (Grad-CAM) and how alike their "
        "channels are, of an nnU-Net v2 model trained with SelfReg or not; all but the second stage of the cascade.",
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL_FOLDER", help="nnUNet_results/DATASET/TRAINER__PLANS__CONFIG"
    )
    parser.add_argument("--compare", type=Path, metavar="MODEL_FOLDER", help="another model, on the same cases")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="FOLDER|CASE", help="images named as nnU-Net's, or one of them"
    )
    parser.add_argument("--labels", type=Path, metavar="FOLDER", help="their references; default: the predictions")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="OUT", help="new folder for the report")
    parser.add_argument("-f", dest="fold", metavar="FOLD", help="default: the first that has the checkpoint")
    parser.add_argument("-chk", dest="checkpoint", default="checkpoint_final.pth", help="default: checkpoint_final.pth")
    parser.add_argument(
        "--cases",
        type=int,
        default=CASES,
        metavar="N",
        help=f"at most so many, spread over the names; default: {CASES}",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda when there is one, else cpu")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    return parser


def _device(wanted: str | None) -> "torch.device":
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise SelfRegError("--device cuda: PyTorch finds no such device here; use --device cpu")
    return torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
