"""`nnUNetv2_selfreg convert`: a benchmark's archive to an nnU-Net raw data set with the benchmark's own split."""

import argparse
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial
from pathlib import Path

from tqdm import tqdm

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.benchmarks.benchmark import DOUBLED, Benchmark, CaseError, Staging, Survey
from nnunetv2_selfreg.benchmarks.registry import BENCHMARKS
from nnunetv2_selfreg.benchmarks.source import collect, passed_over
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import listed, new_folder, write_text

SIZES = (224,)
RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"
SPLITS, FINGERPRINT = "splits_final.json", "dataset_fingerprint.json"


def main(arguments: Sequence[str]) -> int:
    """Converts one archive and prints what was written and what to do next; gives the exit code, 0.

    Raises:
        SelfRegError: The archive is not what the protocol asks for, or the data set cannot be written.
    """
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.number is not None and not 1 <= parsed.number <= 999:
        parser.error(f"argument -d: must be from 1 to 999, got {parsed.number}")
    benchmark = BENCHMARKS[parsed.benchmark]
    if parsed.size and not benchmark.resizable:
        raise SelfRegError(f"--size: {benchmark.protocol.dataset} is used at its own size; leave it out")
    if parsed.instances and (not benchmark.instances or parsed.size):
        raise SelfRegError("--instances: only monuseg has instance ids, at its own size; leave it out")
    number = parsed.number or benchmark.number + bool(parsed.size)
    folder = _claim(f"Dataset{number:03d}_{benchmark.dataset}{parsed.size or ''}", parsed.overwrite)
    _check_outside(parsed.sources, folder)
    replaces = (folder / "dataset.json").is_file()
    with new_folder(folder, may_replace=lambda _: parsed.overwrite) as new:
        staging = Staging(new, benchmark.ending, parsed.size, parsed.instances)
        survey = _convert(benchmark, parsed.sources, staging, parsed.allow_incomplete)
        _check_outside([path for case in survey.cases for path in (case.image, case.label) if path], folder)
        train, test = staging.names("train"), staging.names("test")
        if not train:
            raise SelfRegError(f"{parsed.sources[0]} holds no training case that can be used; nnU-Net needs some")
        if survey.problems:
            survey.notes.append(f"incomplete, and marked so in dataset.json: {survey.told()}{_unread(survey)}")
        _write_dataset_json(survey, staging, len(train))
        patients = {name: benchmark.protocol.cluster_of(name) for name in train} if benchmark.protocol.cluster else {}
        earlier = _left_over(folder.name, [FINGERPRINT] if len(set(patients.values())) > 1 else [FINGERPRINT, SPLITS])
        if earlier and not parsed.overwrite:
            raise SelfRegError(
                f"{earlier[0]} is of an earlier data set of this name, and nnU-Net would go on with it; remove it, or "
                "let --overwrite remove it"
            )
        if folds := _write_folds(patients, new, folder, parsed.overwrite):
            survey.notes.append(folds)
    for path in earlier:
        path.unlink(missing_ok=True)
        survey.notes.append(f"removed {path}, which was of the data set before")
    if replaces and not os.environ.get(PREPROCESSED):
        old = FINGERPRINT if folds else f"{FINGERPRINT} and {SPLITS}"
        survey.notes.append(f"{PREPROCESSED} is not set: remove the old {old} of {folder.name} there")
    counts = [f"{len(train)} training and {len(test)} test cases"]
    counts += [f"{count} {what}" for what, count in staging.skipped.items() if count]
    print(f"wrote {folder}: {'; '.join(counts)}", *survey.notes, "next", sep="\n")
    print(f"  nnUNetv2_plan_and_preprocess -d {number} -c 2d --verify_dataset_integrity")
    return 0


def _convert(benchmark: Benchmark, sources: Sequence[Path], staging: Staging, allow_incomplete: bool) -> Survey:
    """Writes the images and labels of a benchmark's archives, or of the folders that they unpack to."""

    unpacked = staging.folder / "unpacked"
    unpacked.mkdir()
    survey = _recognised(benchmark, sources, unpacked)
    if staging.instances and not survey.benchmark.instances:
        raise SelfRegError(f"--instances: the {survey.benchmark.masks} hold no instance ids; leave it out")
    if allow_incomplete:
        _refuse(survey, {DOUBLED})
    for kind in ("images", "labels"):  # a part without cases is an empty folder
        staging.folder_of(kind, "train"), staging.folder_of(kind, "test")
    for case in tqdm(survey.cases, desc=benchmark.protocol.dataset, unit="case", disable=None):
        try:
            survey.benchmark.write(case, staging)
        except CaseError as error:
            survey.lacks(case.part, case.name, error.kind, str(error))
    if not allow_incomplete:  # so that all that is wrong is said at once
        _refuse(survey, set(survey.problems))
    shutil.rmtree(unpacked)
    return survey


def _recognised(benchmark: Benchmark, sources: Sequence[Path], unpacked: Path) -> Survey:
    """What the sources hold, in the one layout of the benchmark that they are in."""
    layouts = (benchmark, *benchmark.layouts)
    patterns = (re.sub(r"\?P<\w+>", "?:", layout.wanted.pattern) for layout in layouts)  # a group's name is used once
    files = collect(sources, re.compile("|".join(patterns), benchmark.wanted.flags), unpacked)
    found = [survey for survey in (Survey.of(layout, files) for layout in layouts) if survey.annotated]
    if len(found) > 1:
        examples = " and ".join(survey.benchmark.example for survey in found)
        given = ", ".join(map(str, sources))
        raise SelfRegError(f"{given}: {benchmark.dataset} is there in two layouts, {examples}; give one of them")
    if not found or not found[0].cases:
        examples = ", nor ".join(layout.example for layout in layouts)
        raise SelfRegError(
            f"{sources[0]} is not {benchmark.dataset}'s archive: no {examples} in it; "
            "documentation/datasets.md shows the layout"
        )
    found[0].unread = [path.name for path in passed_over(sources, files)]
    return found[0]


def _refuse(survey: Survey, kinds: Set[str]) -> None:
    """Ends the conversion if it has problems of these kinds."""
    if kinds & survey.problems.keys():
        way_out = "mend this, or add --allow-incomplete to leave these out and mark the result"
        if DOUBLED in survey.problems:
            way_out = "keep the right file of each case"
        raise SelfRegError(
            f"{survey.benchmark.protocol.dataset} is not as its protocol asks: {survey.told()}{_unread(survey)}; "
            f"{way_out}"
        )


def _unread(survey: Survey) -> str:
    names = listed(survey.unread)
    return f"; not read, as it lies beside unpacked files: {names} (give it as a SOURCE)" if survey.unread else ""


def _claim(name: str, overwrite: bool) -> Path:
    """Gives the folder of a data set `DatasetNNN_Name`, whose name and id must be free."""
    raw = os.environ.get(RAW)
    if not raw:
        raise SelfRegError(f"{RAW} is not set; export {RAW}=/path/to/{RAW}")
    number = name.removeprefix("Dataset").split("_")[0]
    for root in filter(None, map(os.environ.get, (RAW, PREPROCESSED, RESULTS))):
        for other in sorted(Path(root).glob(f"Dataset{number}*")):
            if other.is_dir() and other.name != name:
                raise SelfRegError(f"id {number} belongs to {other} already; choose another with -d")
    folder = Path(raw, name)
    if folder.exists() and not overwrite:
        raise SelfRegError(f"{folder} exists already; replace it with --overwrite, or choose another id with -d")
    return folder


def _check_outside(paths: Iterable[Path], folder: Path) -> None:
    """Refuses to read what a data set would replace."""
    for path in paths:
        if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            raise SelfRegError(f"{path} lies in {folder}, which this data set would replace; move it out of there")


def _write_folds(groups: Mapping[str, str], staging: Path, folder: Path, overwrite: bool) -> str | None:
    """Writes nnU-Net's five random folds, drawn over the groups (of patients) of the cases in place of the cases.

    Of fewer than five groups there are as many folds, and none of a single group. Gives a line for the user that says
    where the folds are, or what is left to do. Other folds where nnU-Net reads them are replaced with `overwrite` only.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    names = sorted(set(groups.values()))
    if len(names) < 2:
        return None
    folds = [
        {part: sorted(case for case, group in groups.items() if group in set(fold[part])) for part in ("train", "val")}
        for fold in generate_crossval_split(names, n_splits=min(5, len(names)))
    ]
    text = json.dumps(folds, indent=4) + "\n"
    write_text(staging / SPLITS, text)
    preprocessed = os.environ.get(PREPROCESSED)
    path = Path(preprocessed or PREPROCESSED, folder.name, SPLITS)
    if not preprocessed:
        return f"{PREPROCESSED} is not set: before training, copy {folder / SPLITS} to {path}"
    if path.exists() and not overwrite and path.read_bytes() != text.encode():
        raise SelfRegError(f"{path} holds other folds; remove it, or replace it with --overwrite")
    write_text(path, text)
    return f"wrote {len(folds)} folds to {path}, where nnU-Net reads them"


def _left_over(dataset: str, names: Sequence[str]) -> list[Path]:
    """What nnU-Net would go on with of an earlier data set of this name."""
    preprocessed = os.environ.get(PREPROCESSED)
    paths = [Path(preprocessed, dataset, name) for name in names] if preprocessed else []
    return [path for path in paths if path.is_file()]


def _write_dataset_json(survey: Survey, staging: Staging, training_cases: int) -> None:
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    benchmark, size = survey.benchmark, staging.size
    resized = f"; pictures and masks resized to {size}x{size}, bilinearly, masks then > 0" if size else ""
    generate_dataset_json(
        str(staging.folder),
        {str(index): channel for index, channel in enumerate(benchmark.channels)},
        {name: value for value, name in enumerate(("background", *benchmark.protocol.classes))},
        training_cases,
        benchmark.ending,
        dataset_name=benchmark.dataset,
        reference=benchmark.reference,
        license=benchmark.licence,
        converted_by=f"nnunetv2-selfreg {__version__}",
        benchmark={
            "name": benchmark.protocol.dataset,
            "protocol": benchmark.description + resized,
            "size": size,
            "masks": (size and benchmark.masks_resized) or benchmark.masks,
            "missing": survey.missing,
            "problems": survey.problems,
            "complete": not survey.problems,
        },
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_selfreg convert",
        description="Writes a benchmark's archive as an nnU-Net raw data set with the benchmark's own training and "
        "test split. Without --allow-incomplete, anything missing, extra or unreadable ends it with nothing written.",
        allow_abbrev=False,
    )
    parser.add_argument("benchmark", choices=BENCHMARKS, metavar="BENCHMARK", help=", ".join(BENCHMARKS))
    archive = "the archive, or the folder that it unpacks to"
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help=archive)
    numbers = ", ".join(f"{name} {benchmark.number}" for name, benchmark in BENCHMARKS.items())
    number = f"of the data set; default: {numbers}, one more with --size"
    parser.add_argument("-d", dest="number", type=int, metavar="ID", help=number)
    parser.add_argument("--size", type=int, choices=SIZES, help="resize as the protocol trains (glas, monuseg)")
    flag = partial(parser.add_argument, action="store_true")
    flag("--instances", help="write instance ids besides (monuseg)")
    flag("--allow-incomplete", help="leave out what cannot be used and mark the result")
    flag("--overwrite", help="replace the data set of this name, and its folds where nnU-Net reads")
    return parser
