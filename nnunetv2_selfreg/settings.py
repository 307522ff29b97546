"""What a user may set: the key `selfreg` of a configuration in the plans; and how plans are read."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import listed, read_json
from nnunetv2_selfreg.terms import BUILT_IN, CHANNELS, Term

KEY = "selfreg"
TAPS = ("stages", "first_and_last")
STAGES = ("encoder_stages", "decoder_stages")
CHOICES = {"taps": TAPS, "scr_channels": CHANNELS}  # the settings that are one of a few words, the default first
PLACES = ("taps", *STAGES, "teacher")  # the settings that say which maps are read
OTHER_JSON = ("dataset", "dataset_fingerprint", "splits_final")  # what else nnU-Net keeps as .json beside its plans


@dataclass(frozen=True)
class SelfRegSettings:
    """Weights of the terms and the maps they read; the defaults are the published CNN's.

    Attributes:
        weights: The weight of each term by the term's name, at least 0; 0 switches it off.
        taps: `stages` reads each student stage's output, `first_and_last` also that of its first block, as the
            published transformer does.
        encoder_stages: The encoder's students, by index of the stage or by the module's name; None for all stages but
            the first.
        decoder_stages: The decoder's students; None for all stages but the last.
        teacher: The teacher module's name; None for the last decoder stage.
        every: The terms are computed in each so many training steps, with so many times their weight. The gradient is
            the same in expectation, the cost falls (lazy regularisation: Karras et al., CVPR 2020).
        scr_channels: What SCR compares: `drawn` are random channels, as published; `expected` is the mean over all
            draws in closed form, without a draw and its noise.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {term.name: term.weight for term in BUILT_IN})
    taps: str = "stages"
    encoder_stages: tuple[int | str, ...] | None = None
    decoder_stages: tuple[int | str, ...] | None = None
    teacher: str | None = None
    every: int = 1
    scr_channels: str = CHANNELS[0]

    @classmethod
    def from_plans(cls, configuration: Mapping[str, Any], terms: Sequence[Term] = BUILT_IN) -> "SelfRegSettings":
        """Reads the settings of one configuration of the plans, with nnU-Net's inheritance already resolved.

        Args:
            configuration: The configuration; without the key `selfreg` every setting keeps its default.
            terms: The terms of the trainer. The weight of a built-in term that is not one of them is checked and left
                out, so that one plans file serves trainers with fewer terms.

        Raises:
            SelfRegError: The key is not a mapping, or holds an unknown or wrong setting.
        """
        names = [term.name for term in terms]
        if twice := {name for name in names if names.count(name) > 1}:
            raise SelfRegError(f"SelfReg: the trainer has several terms called {', '.join(sorted(twice))}; rename one")
        given = configuration.get(KEY, {})
        if not isinstance(given, Mapping):
            raise SelfRegError(f"SelfReg: plans key '{KEY}' must hold settings by name, got {given!r}")
        known = option_types(terms)
        for name in given:
            if name not in known:
                raise SelfRegError(f"SelfReg: plans key '{KEY}.{name}' is unknown; known: {', '.join(known)}")
        weights = {
            term.name: _weight(term.setting, given.get(term.setting, term.weight)) for term in _with_built_in(terms)
        }
        taps, scr_channels = (_one_of(name, known, given) for name, known in CHOICES.items())
        stages = {name: _stages(name, given.get(name)) for name in STAGES}
        if (teacher := given.get("teacher")) is not None and not (isinstance(teacher, str) and teacher):
            raise SelfRegError(f"SelfReg: plans key '{KEY}.teacher' must be a module's name, got {teacher!r}")
        every = given.get("every", 1)
        if type(every) is not int or every < 1:
            raise SelfRegError(
                f"SelfReg: plans key '{KEY}.every' must be a whole number of steps from 1, got {every!r}"
            )
        chosen = {term.name: weights[term.name] for term in terms}
        return cls(chosen, taps, **stages, teacher=teacher, every=every, scr_channels=scr_channels)

    def as_plans(self) -> dict[str, Any]:
        """The settings as they stand under the plans key `selfreg`."""
        weights = {f"lambda_{name}": weight for name, weight in self.weights.items()}
        others = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "weights"}
        return weights | {name: list(value) if isinstance(value, tuple) else value for name, value in others.items()}

    def __str__(self) -> str:
        """The settings as the log shows them; beside weights and taps only what is not as published."""
        parts = [f"lambda_{name} {weight:g}" for name, weight in self.weights.items()] + [f"taps {self.taps}"]
        parts += [f"{name} {list(value)}" for name in STAGES if (value := getattr(self, name)) is not None]
        parts += [f"teacher {self.teacher}"] if self.teacher else []
        parts += [f"every {self.every} steps"] if self.every > 1 else []
        parts += [f"scr_channels {self.scr_channels}"] if self.scr_channels != CHANNELS[0] else []
        return ", ".join(parts)


def option_types(terms: Sequence[Term] = BUILT_IN) -> dict[str, type]:
    """Every setting by name, with the type of its value: those of the built-in terms, and of the given ones."""
    weights = {term.setting: float for term in _with_built_in(terms)}
    others = {"teacher": str, "every": int, "scr_channels": str}
    return {**weights, "taps": str, **dict.fromkeys(STAGES, list), **others}


def check_places(plans: Mapping[str, Any]) -> None:
    """Refuses the key `selfreg` anywhere in the plans but in a configuration, where it would be ignored.

    Raises:
        SelfRegError: It stands somewhere else, or a key is nearly it, such as `SelfReg`.
    """

    def search(content: Any, place: tuple[str, ...]) -> None:
        for key, value in content.items() if isinstance(content, Mapping) else ():
            inside = (*place, str(key))
            if key != KEY and re.sub("[_-]", "", str(key)).lower() == KEY:
                raise SelfRegError(f"SelfReg: plans key '{'.'.join(inside)}' would be ignored; write '{KEY}'")
            if key == KEY and not (len(inside) == 3 and inside[0] == "configurations"):
                raise SelfRegError(
                    f"SelfReg: plans key '{'.'.join(inside)}' would be ignored; move it into a configuration: "
                    f"configurations.2d.{KEY}, say"
                )
            if key != KEY:
                search(value, inside)

    search(plans, ())


def _with_built_in(terms: Sequence[Term]) -> list[Term]:
    by_name = {term.name: term for term in (*BUILT_IN, *terms)}
    return list(by_name.values())


def _one_of(name: str, known: Sequence[str], given: Mapping[str, Any]) -> str:
    value: Any = given.get(name, known[0])
    if value not in known:
        raise SelfRegError(f"SelfReg: plans key '{KEY}.{name}' must be one of {', '.join(known)}, got {value!r}")
    return str(value)


def _weight(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SelfRegError(f"SelfReg: plans key '{KEY}.{name}' must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond every float
        number = math.inf
    if not math.isfinite(number) or number < 0:
        raise SelfRegError(f"SelfReg: plans key '{KEY}.{name}' must be finite and at least 0, got {value!r}")
    return number


def _stages(name: str, value: Any) -> tuple[int | str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(
        stage >= 0 if type(stage) is int else isinstance(stage, str) and stage for stage in value
    ):
        raise SelfRegError(
            f"SelfReg: plans key '{KEY}.{name}' must list stage indices from 0, or modules' names, got {value!r}"
        )
    if len(set(value)) < len(value):
        raise SelfRegError(f"SelfReg: plans key '{KEY}.{name}' names a stage twice: {value!r}")
    return tuple(sorted(value, key=lambda stage: stage if isinstance(stage, int) else -1))  # names as they stand


def read_plans(path: Path, patience: float = 0) -> dict[str, Any]:
    """Reads a plans file.

    Args:
        path: The file.
        patience: For how many seconds a file that is cut off is read again: nnU-Net may be writing it.

    Raises:
        SelfRegError: The file does not exist, cannot be read or holds something else.
    """
    if not path.is_file():
        others = sorted(other.stem for other in path.parent.glob("*.json") if other.stem not in OTHER_JSON)
        raise SelfRegError(f"{path} does not exist; plans there: {listed(others, 20)}")
    plans = read_json(path, "plans file", patience)
    configurations = plans.get("configurations")
    are_there = isinstance(configurations, dict) and all(isinstance(each, dict) for each in configurations.values())
    if not are_there or not configurations:
        raise SelfRegError(f"{path} is not a plans file: it has no configurations")
    for name, configuration in configurations.items():
        for key in ("inherits_from", "data_identifier"):
            if not isinstance(value := configuration.get(key), str | None):
                raise SelfRegError(f"{path} is not a plans file: configurations.{name}.{key} is {value!r} and no name")
    return plans


def resolve(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Gives a configuration with what it inherits, key by key as nnU-Net's `PlansManager` does.

    Raises:
        SelfRegError: The configuration or an ancestor does not exist, or one inherits from itself.
    """
    chain: list[Mapping[str, Any]] = []
    visited: list[str] = []
    following: str | None = name
    while following is not None:
        if following in visited:
            raise SelfRegError(f"configuration {name!r} inherits from itself: {' -> '.join([*visited, following])}")
        if following not in plans["configurations"]:
            raise SelfRegError(
                f"configuration {following!r} does not exist in the plans; known: {', '.join(plans['configurations'])}"
            )
        visited.append(following)
        chain.append(plans["configurations"][following])
        following = chain[-1].get("inherits_from")
    return {key: value for configuration in reversed(chain) for key, value in configuration.items()}
