"""What a user may set: the key `selfreg` of a configuration in the plans."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nnunetv2_selfreg.errors import SelfRegError


@dataclass(frozen=True)
class SelfRegSettings:
    """Weights of the two losses; the defaults are the paper's best (its ablation on MoNuSeg and GlaS).

    Attributes:
        lambda_scr: Weight of the semantic consistency regularisation, at least 0; 0 switches it off.
        lambda_ifd: Weight of the internal feature distillation, at least 0; 0 switches it off.

    Raises:
        SelfRegError: A weight is not a number, is negative or is not finite.
    """

    lambda_scr: float = 0.015
    lambda_ifd: float = 0.015

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
        return ", ".join(f"{field.name} {getattr(self, field.name):g}" for field in fields(self))
