"""What a benchmark's module tells the converter: which files it wants, what must be there, how a case is written."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal

import numpy as np

from nnunetv2_selfreg.benchmarks.protocol import Protocol
from nnunetv2_selfreg.files import listed

Part = Literal["train", "test"]
Problem = Literal[
    "missing", "extra", "unreadable", "mismatching", "with wrong label values", "that could be the same case"
]

DOUBLED: Problem = "that could be the same case"  # several files, and nobody knows which one is meant
SHOWN = 10
SEED = 0
TEST_SHARE = 0.2

_FOLDERS = {"train": "Tr", "test": "Ts"}


class CaseError(Exception):
    """One case cannot be used: the kind of problem, the file and what is wrong with it."""

    def __init__(self, kind: Problem, what: str) -> None:
        super().__init__(what)
        self.kind = kind


@dataclass(frozen=True)
class ArchiveCase:
    """An image of the archive and its annotation."""

    name: str  # nnU-Net's case identifier
    part: Part
    image: Path
    label: Path | None  # None where the benchmark has images without annotation


@dataclass(frozen=True)
class Staging:
    """The data set while it is being written."""

    folder: Path
    ending: str  # of every image and label
    size: int | None = None  # rows and columns to resize pictures to; None keeps their own
    instances: bool = False  # whether to write instance ids besides
    skipped: "Counter[str]" = field(default_factory=Counter)  # what, with how often

    def folder_of(self, kind: str, part: Part, suffix: str = "") -> Path:
        """Where a part's `images`, `labels` or `instances` lie; made if it is not there."""
        folder = self.folder / f"{kind}{_FOLDERS[part]}{suffix}"
        folder.mkdir(exist_ok=True)
        return folder

    def path(self, kind: str, part: Part, name: str, suffix: str = "") -> Path:
        """Where a case's file belongs."""
        return self.folder_of(kind, part, suffix) / f"{name}{'_0000' if kind == 'images' else ''}{self.ending}"

    def names(self, part: Part) -> list[str]:
        """The cases that were written."""
        return sorted(path.name.removesuffix(self.ending) for path in self.folder_of("labels", part).iterdir())


def name_of(match: "re.Match[str]") -> str:
    """What an image and its annotation share, as the file's path says it."""
    return match["name"]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, as the converter sees it.

    In `wanted` the group `name` is what an image and its annotation share, and the group `label` matches in annotations
    only. Paths have slashes and are relative to the archive's root. In `templates` {} is the name, and {1} the path of
    the other file.
    """

    protocol: Protocol  # how the whole test set is scored; its `dataset` is the benchmark's name
    dataset: str  # in the data set's name
    number: int  # the default id
    example: str  # a file that tells the archive from others
    wanted: "re.Pattern[str]"  # matches the paths in the archive that are used
    templates: tuple[str, str]  # what the image and the annotation of a name are called
    sort: "Callable[[Survey], None]"  # makes cases of the files that matched
    write: Callable[[ArchiveCase, Staging], None]  # reads, checks and writes a case; raises CaseError
    description: str  # the split and what is done to the files, in a sentence
    licence: str  # of the original data
    reference: str  # whom to cite
    channels: Sequence[str] = ("R", "G", "B")
    ending: str = ".png"  # of the files written
    name: Callable[["re.Match[str]"], str] = name_of  # of a match of `wanted`
    case: str = "{}"  # what the case of a name is called
    unlabelled: Callable[[Path], bool] = lambda image: False  # whether an image may stand without annotation
    resizable: bool = False  # whether `--size` is allowed
    instances: bool = False  # whether `--instances` is allowed
    masks: str | None = None  # which reference masks these are, where there are several
    masks_resized: str | None = None  # and after `--size`, where that makes others of them
    layouts: "Sequence[Benchmark]" = ()  # the same benchmark in other layouts


@dataclass
class Survey:
    """What an archive holds, as far as its files' names tell."""

    benchmark: Benchmark
    files: dict[tuple[str, bool], Path] = field(default_factory=dict)  # by name and whether it is an annotation
    annotated: bool = False  # whether there is any annotation
    cases: list[ArchiveCase] = field(default_factory=list)  # what can be converted
    missing: dict[str, list[str]] = field(default_factory=lambda: {"train": [], "test": []})  # cases, by part
    problems: dict[str, list[str]] = field(default_factory=dict)  # what is not as the protocol asks, by kind
    notes: list[str] = field(default_factory=list)  # what the user should know besides
    unread: list[str] = field(default_factory=list)  # archives that lie beside unpacked files

    @classmethod
    def of(cls, benchmark: Benchmark, found: Mapping[Path, str]) -> "Survey":
        """Sorts the files of an archive, each with its name for the user; without annotations it holds no cases."""
        survey = cls(benchmark)
        for path, name in found.items():
            if match := benchmark.wanted.search(path.as_posix()):
                key = benchmark.name(match), bool(match["label"])
                if key in survey.files:
                    survey.problem(DOUBLED, f"{found[survey.files[key]]} and {name}")
                survey.files.setdefault(key, path)
        survey.annotated = any(label for _, label in survey.files)
        if survey.annotated:
            benchmark.sort(survey)
        return survey

    def problem(self, kind: Problem, *what: str) -> None:
        """Notes what is wrong, if anything."""
        if what:
            self.problems.setdefault(kind, []).extend(what)

    def told(self) -> str:
        """The problems in a line; empty without any."""
        return "; ".join(f"{len(names)} {kind}: {listed(names, SHOWN)}" for kind, names in self.problems.items())

    def lacks(self, part: str, case: str, kind: Problem, what: str) -> None:
        """Notes a case that cannot be written, and what is wrong."""
        self.missing.setdefault(part, []).append(case)
        self.problem(kind, what)

    def pair(self, name: str, part: Part) -> None:
        """Makes a case of a name's image and annotation, or notes which of them it lacks."""
        image, label = self.files.pop((name, False), None), self.files.pop((name, True), None)
        case = self.benchmark.case.format(name)
        if image and (label or self.benchmark.unlabelled(image)):
            self.cases.append(ArchiveCase(case, part, image, label))
        else:
            self.lacks(part, case, "missing", self._lacking(name, image, label) or case)

    def _lacking(self, name: str, image: Path | None, label: Path | None) -> str | None:
        """What the other file is called: with the ending of the one that is there, if both have the same as a rule."""
        if not (there := image or label):
            return None
        wanted, given = (template.format(name, there) for template in self.benchmark.templates[:: -1 if image else 1])
        ending = _ending(wanted)
        return wanted.removesuffix(ending) + _ending(there.name) if ending == _ending(given) else wanted

    def leave_out(self, names: Iterable[str]) -> None:
        """Tells the user about names that are no part of the protocol."""
        if others := sorted(set(names)):
            what = f"{len(others)} {self.benchmark.protocol.unit} that are no part of this protocol"
            self.notes.append(f"left out {what}: {listed(others, SHOWN)}")


def _ending(file: str) -> str:
    return ".nii.gz" if file.endswith(".nii.gz") else PurePath(file).suffix


def sort_listed(survey: Survey, train: Iterable[str], test: Iterable[str], others: int | None = None) -> None:
    """Sorts an archive whose names are published; `others` more may be in it, any number if None."""
    for name in train:
        survey.pair(name, "train")
    for name in test:
        survey.pair(name, "test")
    rest = sorted({survey.benchmark.case.format(name) for name, _ in survey.files})
    if others is None or len(rest) <= others:
        survey.leave_out(rest)
    else:
        survey.problem("extra", *rest)


def sort_drawn(survey: Survey, count: int) -> None:
    """Sorts an archive of so many pictures whose names and split are not published: a fifth is drawn for the test.

    NumPy's `default_rng(0)` permutes the sorted names; the first ones are drawn.
    """
    names = sorted({name for name, _ in survey.files})
    order = np.random.default_rng(SEED).permutation(len(names))
    test = {names[index] for index in order[: round(TEST_SHARE * len(names))]}
    for name in names:
        survey.pair(name, "test" if name in test else "train")
    if len(names) < count:
        lacking = f"{count - len(names)} of {count} pictures (their names are not published)"
        survey.lacks("train or test", lacking, "missing", lacking)
    elif len(names) > count:
        survey.problem("extra", f"{len(names) - count} pictures over {count}")
