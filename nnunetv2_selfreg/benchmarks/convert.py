"""`nnUNetv2_selfreg convert`: a benchmark's archive to an nnU-Net raw data set with the benchmark's own split."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.benchmarks.benchmark import SHOWN, Benchmark, CaseError, Staging, Survey
from nnunetv2_selfreg.benchmarks.raw import PREPROCESSED, SPLITS, RawDataset, make_splits
from nnunetv2_selfreg.benchmarks.registry import BENCHMARKS
from nnunetv2_selfreg.benchmarks.source import collect
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import listed

SIZES = (224,)


def main(arguments: Sequence[str]) -> int:
    """Converts one archive and prints what was written and what to do next.

    Args:
        arguments: The command line after `nnUNetv2_selfreg convert`.

    Returns:
        The exit code, 0.

    Raises:
        SelfRegError: The archive is not what the protocol asks for, or the data set cannot be written.
    """
    parsed = _parser().parse_args(arguments)
    benchmark = BENCHMARKS[parsed.benchmark]
    if parsed.size and not benchmark.resizable:
        raise SelfRegError(f"--size: {benchmark.protocol.dataset} is used at its own size; leave it out")
    if parsed.instances and (not benchmark.instances or parsed.size):
        raise SelfRegError("--instances: only monuseg has instance ids, at its own size; leave it out")
    number = parsed.number or benchmark.number + bool(parsed.size)
    raw = RawDataset.claim(f"Dataset{number:03d}_{benchmark.dataset}{parsed.size or ''}", parsed.overwrite)
    with raw.staging() as folder:
        staging = Staging(folder, benchmark.ending, parsed.size, parsed.instances)
        survey = convert(benchmark, parsed.sources, staging, parsed.allow_incomplete)
        train, test = staging.names("train"), staging.names("test")
        if not train:
            raise SelfRegError(f"{parsed.sources[0]} holds no training case that can be used; nnU-Net needs some")
        protocol = benchmark.protocol
        splits = make_splits({name: protocol.cluster_of(name) for name in train}) if protocol.cluster else []
        if splits:
            raw.write_splits(splits, folder)
        _write_dataset_json(benchmark, survey, staging, len(train))
    counts = [f"{len(train)} training and {len(test)} test cases"]
    counts += [f"{count} {what}" for what, count in staging.skipped.items() if count]
    print(f"wrote {raw.folder}: {'; '.join(counts)}", *survey.notes, sep="\n")
    if survey.problems:
        print(f"incomplete, and marked so in dataset.json: {_problems(survey)}")
    if splits and raw.splits:
        print(f"wrote {len(splits)} folds to {raw.splits}, where nnU-Net reads them")
    elif splits:
        place = f"{PREPROCESSED}/{raw.folder.name}/{SPLITS}"
        print(f"{PREPROCESSED} is not set: before training, copy {raw.folder / SPLITS} to {place}")
    print("next")
    print(f"  nnUNetv2_plan_and_preprocess -d {number} -c 2d --verify_dataset_integrity")
    return 0


def convert(benchmark: Benchmark, sources: Sequence[Path], staging: Staging, allow_incomplete: bool = False) -> Survey:
    """Writes the images and labels of a data set.

    Args:
        benchmark: The benchmark.
        sources: Its archives, or the folders that they unpack to.
        staging: Where to.
        allow_incomplete: Whether to leave out what is missing or cannot be used.

    Returns:
        What the archives hold, and what was left out.

    Raises:
        SelfRegError: The sources are another archive or are not complete.
    """
    unpacked = staging.folder / "unpacked"
    unpacked.mkdir()
    survey = Survey.of(benchmark, collect(sources, benchmark.wanted, unpacked))
    if not survey.cases:
        raise SelfRegError(
            f"{sources[0]} is not {benchmark.dataset}'s archive: no {benchmark.example} in it; "
            "documentation/datasets.md shows the layout"
        )
    _refuse(benchmark, survey, allow_incomplete)
    for kind in ("images", "labels"):  # a part without cases is an empty folder
        staging.folder_of(kind, "train"), staging.folder_of(kind, "test")
    for case in tqdm(survey.cases, desc=benchmark.protocol.dataset, unit="case", disable=None):
        try:
            benchmark.write(case, staging)
        except CaseError as error:
            survey.problem(error.kind, str(error))
            survey.missing[case.part].append(case.name)
    _refuse(benchmark, survey, allow_incomplete)
    shutil.rmtree(unpacked)
    return survey


def _write_dataset_json(benchmark: Benchmark, survey: Survey, staging: Staging, training_cases: int) -> None:
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    size = staging.size
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
            "missing": survey.missing,
            "problems": survey.problems,
            "complete": not survey.problems,
        },
    )


def _refuse(benchmark: Benchmark, survey: Survey, allow_incomplete: bool) -> None:
    if survey.problems and not allow_incomplete:
        raise SelfRegError(
            f"{benchmark.protocol.dataset} is not complete: {_problems(survey)}; mend this, or add --allow-incomplete "
            "to leave these out and mark the result"
        )


def _problems(survey: Survey) -> str:
    return "; ".join(f"{len(names)} {kind}: {listed(names, SHOWN)}" for kind, names in survey.problems.items())


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
    parser.add_argument("-d", dest="number", type=_number, metavar="ID", help=number)
    parser.add_argument("--size", type=int, choices=SIZES, help="resize as the protocol trains (glas, monuseg)")
    parser.add_argument("--instances", action="store_true", help="write instance ids besides (monuseg)")
    incomplete = "leave out what cannot be used and mark the result"
    parser.add_argument("--allow-incomplete", action="store_true", help=incomplete)
    overwrite = "replace the data set of this name, and its folds where nnU-Net reads"
    parser.add_argument("--overwrite", action="store_true", help=overwrite)
    return parser


def _number(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 999:
        raise argparse.ArgumentTypeError(f"must be from 1 to 999, got {text}")
    return number
