"""What a benchmark's module tells the converter: which files it wants, what must be there, how a case is written."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Part = Literal["train", "test"]
Either = Literal["train or test"]

MISSING = "missing"
EXTRA = "extra"
UNREADABLE = "unreadable"
MISMATCHING = "mismatching"
WRONG_VALUES = "with wrong label values"

_FOLDERS = {"train": "Tr", "test": "Ts"}


class CaseError(Exception):
    """One case cannot be used.

    Args:
        kind: `UNREADABLE`, `MISMATCHING` or `WRONG_VALUES`.
        what: The file, and what is wrong with it.
    """

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


@dataclass(frozen=True)
class Case:
    """An image of the archive and its annotation.

    Attributes:
        name: nnU-Net's case identifier.
        part: Whether it is trained on or kept for the test.
        image: Its file.
        label: The annotation's file; None where the benchmark has images without.
        group: Cases of one group (a patient) must not be parted by the folds.
    """

    name: str
    part: Part
    image: Path
    label: Path | None
    group: str = ""


@dataclass
class Survey:
    """What an archive holds.

    Attributes:
        cases: What can be converted, as far as file names tell.
        missing: Cases of the protocol that will not be there, by part.
        problems: What is not as the protocol asks, by kind.
        notes: What the user should know besides.
    """

    cases: list[Case] = field(default_factory=list)
    missing: dict[Part | Either, list[str]] = field(default_factory=lambda: {"train": [], "test": []})
    problems: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def problem(self, kind: str, what: str) -> None:
        """Notes what is wrong."""
        self.problems.setdefault(kind, []).append(what)

    def lacks(self, part: Part | Either, name: str, what: str | None = None) -> None:
        """Notes a case that is not there; `what` names the file that it lacks."""
        self.missing.setdefault(part, []).append(name)
        self.problem(MISSING, what or name)

    def pair(self, name: str, part: Part, image: Path | None, label: Path | None, files: str) -> None:
        """Notes a case that has both files, or what it lacks.

        Args:
            name: The case.
            part: Where it belongs.
            image: Its image, if it is there.
            label: Its annotation, if it is there.
            files: What to call the two files in a problem, `image and label`.
        """
        if image is not None and label is not None:
            self.cases.append(Case(name, part, image, label))
        elif image is None and label is None:
            self.lacks(part, name)
        else:
            self.lacks(part, name, files.split(" and ")[0 if image is None else 1])

    def unique(self, files: Iterable[Path], wanted: "re.Pattern[str]") -> dict[tuple[str | None, ...], Path]:
        """Indexes files by the groups of the pattern; a second file of the same key is a problem and left out."""
        found: dict[tuple[str | None, ...], Path] = {}
        for path in files:
            match = wanted.search(path.as_posix())
            if match is None:
                continue
            if match.groups() in found:
                self.problem(EXTRA, f"{path.parent.name}/{path.name}")
            found.setdefault(match.groups(), path)
        return found


@dataclass(frozen=True)
class Staging:
    """The data set while it is being written.

    Attributes:
        folder: Its folder, under a name that nnU-Net passes over.
        ending: Of every image and label.
        size: Rows and columns to resize pictures to; None keeps their own.
        instances: Whether to write instance ids besides.
        counts: What was skipped on the way, with how often.
    """

    folder: Path
    ending: str
    size: int | None = None
    instances: bool = False
    counts: "Counter[str]" = field(default_factory=Counter)

    def image(self, part: Part, name: str, kind: str = "") -> Path:
        """The path of a case's image, whose folder exists."""
        return self._path(f"images{_FOLDERS[part]}{kind}", f"{name}_0000{self.ending}")

    def label(self, part: Part, name: str, kind: str = "") -> Path:
        """The path of a case's labels, whose folder exists."""
        return self._path(f"labels{_FOLDERS[part]}{kind}", f"{name}{self.ending}")

    def instance(self, part: Part, name: str) -> Path:
        """The path of a case's instance ids, whose folder exists."""
        return self._path(f"instances{_FOLDERS[part]}", f"{name}{self.ending}")

    def _path(self, folder: str, name: str) -> Path:
        (self.folder / folder).mkdir(exist_ok=True)
        return self.folder / folder / name


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: On the command line.
        dataset: In the data set's name.
        number: The default id.
        title: What to call the archive.
        example: A file that tells the archive from others.
        wanted: Matches the paths in the archive that are used, with slashes, relative to its root.
        survey: Sorts the files that matched.
        write: Reads a case, checks it, writes it and names what it became; raises CaseError.
        channels: Names of the image's channels.
        labels: Values of the classes.
        ending: Of the files written.
        protocol: The split and what is done to the files, in a sentence.
        licence: Of the original data.
        reference: Whom to cite.
        grouped: Whether folds must keep groups together.
        patches: Whether a case becomes several.
        resizable: Whether `--size` is allowed.
        instances: Whether `--instances` is allowed.
    """

    name: str
    dataset: str
    number: int
    title: str
    example: str
    wanted: "re.Pattern[str]"
    survey: Callable[[Sequence[Path]], Survey]
    write: Callable[[Case, Staging], Sequence[str]]
    channels: Sequence[str]
    labels: Mapping[str, int]
    ending: str
    protocol: str
    licence: str
    reference: str
    grouped: bool = False
    patches: bool = False
    resizable: bool = False
    instances: bool = False
