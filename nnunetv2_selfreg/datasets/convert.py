"""`nnUNetv2_selfreg convert`: a benchmark's archive to an nnU-Net raw data set with the benchmark's own split."""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.datasets.benchmark import Benchmark, CaseError, Staging, Survey
from nnunetv2_selfreg.datasets.raw import PREPROCESSED, SPLITS, RawDataset, Splits, make_splits
from nnunetv2_selfreg.datasets.source import collect
from nnunetv2_selfreg.errors import SelfRegError

BENCHMARKS = ("acdc", "synapse", "glas", "monuseg", "digestpath", "ebhi")
SIZES = (224,)
SHOWN = 10
_UNPACKED = "unpacked"
_LAYOUT = "documentation/datasets.md shows the layout"
_DEFAULTS = "acdc 27, synapse 127, glas 227, monuseg 327, digestpath 427, ebhi 527, one more with --size"


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
    benchmark: Benchmark = import_module(f"nnunetv2_selfreg.datasets.{parsed.benchmark}").BENCHMARK
    if parsed.size and not benchmark.resizable:
        raise SelfRegError(f"--size: {benchmark.name} is used at its own size; leave it out")
    if parsed.instances and (not benchmark.instances or parsed.size):
        raise SelfRegError("--instances: only monuseg has instance ids, at its own size; leave it out")
    number = parsed.number or benchmark.number + bool(parsed.size)
    raw = RawDataset.claim(f"Dataset{number:03d}_{benchmark.dataset}{parsed.size or ''}", parsed.overwrite)
    for line in convert(benchmark, parsed.sources, raw, parsed.size, parsed.instances, parsed.allow_incomplete):
        print(line)
    print("next")
    print(f"  nnUNetv2_plan_and_preprocess -d {number} -c 2d --verify_dataset_integrity")
    return 0


def convert(
    benchmark: Benchmark,
    sources: Sequence[Path],
    raw: RawDataset,
    size: int | None = None,
    instances: bool = False,
    allow_incomplete: bool = False,
) -> list[str]:
    """Writes the data set, whole or not at all.

    Args:
        benchmark: The benchmark.
        sources: Its archives, or the folders that they unpack to.
        raw: The data set.
        size: Rows and columns to resize pictures to; None keeps their own.
        instances: Whether to write instance ids besides.
        allow_incomplete: Whether to leave out what is missing or cannot be used, and to say so in `dataset.json`.

    Returns:
        What to tell the user.

    Raises:
        SelfRegError: The sources are another archive, are not complete, or the data set cannot be written.
    """
    with raw.staging() as folder:
        (folder / _UNPACKED).mkdir()
        survey = benchmark.survey(collect(sources, benchmark.wanted, folder / _UNPACKED))
        if not survey.cases:
            raise SelfRegError(f"{sources[0]} is not {benchmark.title}: no {benchmark.example} in it; {_LAYOUT}")
        _refuse(benchmark, survey, allow_incomplete)
        if benchmark.grouped and not benchmark.patches:
            raw.check_splits(make_splits({case.name: case.group for case in survey.cases if case.part == "train"}))
        staging = Staging(folder, benchmark.ending, size, instances)
        groups = _write_cases(benchmark, survey, staging)
        _refuse(benchmark, survey, allow_incomplete)
        if not groups["train"]:
            raise SelfRegError(f"{sources[0]} holds no training case that can be used; nnU-Net needs some")
        shutil.rmtree(folder / _UNPACKED)
        splits = make_splits(groups["train"]) if benchmark.grouped else []
        if splits:
            raw.write_splits(splits, folder)
        _write_dataset_json(benchmark, survey, folder, len(groups["train"]), size)
    counts = [f"{len(groups['train'])} training and {len(groups['test'])} test cases"]
    counts += [f"{count} {what}" for what, count in staging.counts.items() if count]
    return [f"wrote {raw.folder}: {'; '.join(counts)}", *survey.notes, *_lacks(survey), *_about_splits(raw, splits)]


def _write_cases(benchmark: Benchmark, survey: Survey, staging: Staging) -> dict[str, dict[str, str]]:
    """Writes every case that can be used and gives the groups of what was written, by part and case."""
    groups: dict[str, dict[str, str]] = {"train": {}, "test": {}}
    for kind in ("images", "labels"):
        for suffix in ("Tr", "Ts"):
            (staging.folder / f"{kind}{suffix}").mkdir()
    for case in tqdm(survey.cases, desc=benchmark.name, unit="case", disable=None):
        try:
            written = benchmark.write(case, staging)
        except CaseError as error:
            survey.problem(error.kind, str(error))
            survey.missing[case.part].append(case.name)
        else:
            groups[case.part].update(dict.fromkeys(written, case.group))
    return groups


def _write_dataset_json(
    benchmark: Benchmark, survey: Survey, folder: Path, training_cases: int, size: int | None
) -> None:
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    resized = f"; pictures and masks resized to {size}x{size}, bilinearly, masks then > 0" if size else ""
    about: Mapping[str, Any] = {
        "name": benchmark.name,
        "protocol": benchmark.protocol + resized,
        "size": size,
        "missing": survey.missing,
        "problems": survey.problems,
        "complete": not survey.problems,
    }
    generate_dataset_json(
        str(folder),
        {str(index): channel for index, channel in enumerate(benchmark.channels)},
        dict(benchmark.labels),
        training_cases,
        benchmark.ending,
        dataset_name=benchmark.dataset,
        reference=benchmark.reference,
        license=benchmark.licence,
        converted_by=f"nnunetv2-selfreg {__version__}",
        benchmark=about,
    )


def _refuse(benchmark: Benchmark, survey: Survey, allow_incomplete: bool) -> None:
    if survey.problems and not allow_incomplete:
        raise SelfRegError(
            f"{benchmark.name} is not complete: {_problems(survey)}; mend this, or add --allow-incomplete to leave "
            "these out and mark the result"
        )


def _problems(survey: Survey) -> str:
    return "; ".join(f"{len(names)} {kind}: {_first(names)}" for kind, names in survey.problems.items())


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _lacks(survey: Survey) -> list[str]:
    return [f"incomplete, and marked so in dataset.json: {_problems(survey)}"] if survey.problems else []


def _about_splits(raw: RawDataset, splits: Splits) -> list[str]:
    if not splits:
        return []
    place = raw.folder / SPLITS
    if raw.splits is not None:
        return [f"wrote {len(splits)} folds to {raw.splits}, where nnU-Net reads them"]
    return [f"{PREPROCESSED} is not set: before training, copy {place} to {PREPROCESSED}/{raw.name}/{SPLITS}"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_selfreg convert",
        description="Writes a benchmark's archive as an nnU-Net raw data set with the benchmark's own training and "
        "test split. Without --allow-incomplete, anything missing, extra or unreadable ends it with nothing written.",
        allow_abbrev=False,
    )
    parser.add_argument("benchmark", choices=BENCHMARKS, metavar="BENCHMARK", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "sources", type=Path, nargs="+", metavar="SOURCE", help="the archive, or the folder that it unpacks to"
    )
    parser.add_argument("-d", dest="number", type=_number, metavar="ID", help=f"of the data set; default: {_DEFAULTS}")
    parser.add_argument("--size", type=int, choices=SIZES, help="resize as the protocol trains (glas, monuseg)")
    parser.add_argument("--instances", action="store_true", help="write instance ids besides (monuseg)")
    parser.add_argument(
        "--allow-incomplete", action="store_true", help="leave out what cannot be used and mark the result"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the data set of this name, and its folds where nnU-Net reads"
    )
    return parser


def _number(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 999:
        raise argparse.ArgumentTypeError(f"must be from 1 to 999, got {text}")
    return number
