"""Numbers as a table shows them."""

from collections.abc import Mapping
from math import isnan
from typing import Any

import pandas as pd

DIFFERENCE = ("95 % CI", "p", "better", "worse", "cases")  # the columns after a difference


def number(value: float | None, form: str = ".2f") -> str:
    """A number with two digits after the point; `-` where there is none."""
    return "-" if value is None or isnan(value) else format(round(value, 2) + 0.0, form)  # + 0.0: no -0.00


def plus_minus(mean: float | None, sd: float | None, form: str = ".2f") -> str:
    """A mean with its standard deviation, if there is one."""
    return " ± ".join([number(mean, form)] + [number(sd)] * (number(sd) != "-"))


def interval(low: float | None, high: float | None) -> str:
    """Both ends of an interval of a difference; `-` where there is none."""
    ends = number(low, "+.2f"), number(high, "+.2f")
    return "-" if "-" in ends else " to ".join(ends)


def p_value(p: float | None) -> str:
    """A p-value with three digits after the point."""
    return "-" if p is None or isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def difference(row: Mapping[str, Any]) -> list[str]:
    """A difference and the columns of `DIFFERENCE`.

    Args:
        row: What `statistics.Difference` holds.
    """
    ends = interval(row["low"], row["high"]), p_value(row["p"])
    return [number(row["mean"], "+.2f"), *ends, *(str(row[name]) for name in ("better", "worse", "cases"))]


def markdown(frame: pd.DataFrame, text: int = 1) -> str:
    """A table in Markdown, whose first columns are text and the others numbers.

    Args:
        frame: The cells; its index is not shown.
        text: How many columns are text.
    """
    align = ["---"] * text + ["---:"] * (len(frame.columns) - text)
    rows = [frame.columns, align, *frame.itertuples(index=False, name=None)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
