"""What a user may set: the key `selfreg` of a configuration in the plans; and how plans are read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import listed, read_json

TAPS = ("stages", "first_and_last")
RESERVED = ("dataset", "dataset_fingerprint", "splits_final")  # what else nnU-Net keeps as .json beside its plans


@dataclass(frozen=True)
class SelfRegSettings:
    """Weights of the two losses and the maps they read; the defaults are the published CNN's.

    Attributes:
        lambda_scr: Weight of the semantic consistency regularisation, at least 0; 0 switches it off.
        lambda_ifd: Weight of the internal feature distillation, at least 0; 0 switches it off.
        taps: `stages` reads each student stage's output, `first_and_last` also that of its first block, as the
            published transformer does.
        encoder_stages: Indices of the encoder stages that are students; None for all but the first.
        decoder_stages: Indices of the decoder stages that are students; None for all but the last, the teacher.

    Raises:
        SelfRegError: A setting has the wrong type or a value that it cannot take.
    """

    lambda_scr: float = 0.015
    lambda_ifd: float = 0.015
    taps: str = "stages"
    encoder_stages: tuple[int, ...] | None = None
    decoder_stages: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("lambda_scr", "lambda_ifd"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise SelfRegError(f"SelfReg: plans key 'selfreg.{name}' must be a number, got {value!r}")
            try:
                number = float(value)
            except OverflowError:  # an integer beyond every float
                number = math.inf
            if not math.isfinite(number) or number < 0:
                raise SelfRegError(f"SelfReg: plans key 'selfreg.{name}' must be finite and at least 0, got {value!r}")
            object.__setattr__(self, name, number)
        if self.taps not in TAPS:
            raise SelfRegError(f"SelfReg: plans key 'selfreg.taps' must be one of {', '.join(TAPS)}, got {self.taps!r}")
        for name in ("encoder_stages", "decoder_stages"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, (list, tuple)) or any(type(i) is not int or i < 0 for i in value):
                raise SelfRegError(f"SelfReg: plans key 'selfreg.{name}' must list stage indices from 0, got {value!r}")
            if len(set(value)) < len(value):
                raise SelfRegError(f"SelfReg: plans key 'selfreg.{name}' names a stage twice: {value!r}")
            object.__setattr__(self, name, tuple(sorted(value)))

    @classmethod
    def from_plans(cls, configuration: Mapping[str, Any]) -> "SelfRegSettings":
        """Reads the settings of one configuration of the plans, with nnU-Net's inheritance already resolved.

        Args:
            configuration: The configuration; without the key `selfreg` every setting keeps its default.

        Raises:
            SelfRegError: The key is not a mapping, or holds an unknown or wrong setting.
        """
        given = configuration.get("selfreg", {})
        if not isinstance(given, Mapping):
            raise SelfRegError(f"SelfReg: plans key 'selfreg' must hold settings by name, got {given!r}")
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise SelfRegError(f"SelfReg: plans key 'selfreg.{name}' is unknown; known: {', '.join(known)}")
        return cls(**given)

    def __str__(self) -> str:
        """The settings as the log shows them; stages only where they are not the published ones."""
        text = f"lambda_scr {self.lambda_scr:g}, lambda_ifd {self.lambda_ifd:g}, taps {self.taps}"
        for name in ("encoder_stages", "decoder_stages"):
            if (stages := getattr(self, name)) is not None:
                text += f", {name} {list(stages)}"
        return text


def read_plans(path: Path) -> dict[str, Any]:
    """Reads a plans file.

    Raises:
        SelfRegError: The file does not exist, cannot be read or holds something else.
    """
    if not path.is_file():
        others = sorted(other.stem for other in path.parent.glob("*.json") if other.stem not in RESERVED)
        raise SelfRegError(f"{path} does not exist; plans there: {listed(others, 20)} (-p)")
    plans = read_json(path, "plans file")
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict) or not all(isinstance(value, dict) for value in configurations.values()):
        raise SelfRegError(f"{path} is not a plans file: it has no configurations; choose another with -p")
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
