"""Numbers and text as a table shows them."""

import re
from collections.abc import Mapping
from math import isnan
from typing import Any

DIFFERENCE_COLUMNS = ("95 % CI", "p", "better", "worse", "cases")  # the columns after a difference
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "_%&#${}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": "$<$", ">": "$>$", "±": r"$\pm$", "†": r"$^{\dagger}$"},
}


def number(value: float | None, form: str = ".2f") -> str:
    """A number with two digits after the point; `-` where there is none."""
    return "-" if value is None or isnan(value) else format(round(value, 2) + 0.0, form)  # + 0.0: no -0.00


def plus_minus(mean: float | None, sd: float | None, form: str = ".2f") -> str:
    """A mean with its standard deviation, if there is one."""
    return f"{number(mean, form)} ± {number(sd)}".removesuffix(" ± -")


def interval(low: float | None, high: float | None) -> str:
    """Both ends of an interval of a difference; `-` where there is none."""
    return f"{number(low, '+.2f')} to {number(high, '+.2f')}".replace("- to -", "-")


def p_value(p: float | None) -> str:
    """A p with three digits; `-` where there is none."""
    return "-" if p is None or isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def difference(row: Mapping[str, Any]) -> list[str]:
    """A difference, with what `statistics.difference` gives, and the columns of `DIFFERENCE_COLUMNS`."""
    counts = (str(row[name]) for name in DIFFERENCE_COLUMNS[2:])
    return [number(row["mean"], "+.2f"), interval(row["low"], row["high"]), p_value(row["p"]), *counts]


def mean_in_words(row: Mapping[str, Any]) -> str:
    """A class and its mean, for who does not see the plot."""
    return f"{row['class']} {plus_minus(row['value'], row['sd'])}"


def difference_in_words(row: Mapping[str, Any]) -> str:
    """A class, its difference and how many cases are better or worse, for who does not see the plot."""
    value, ends, _, better, worse, cases = difference(row)
    inside = "" if ends == "-" else f" (95 % CI {ends})"
    return f"{row['class']} {value}{inside}, {better} of {cases} cases better and {worse} worse"


def latex(text: str) -> str:
    """Text with every special character of LaTeX escaped."""
    return "".join(_LATEX.get(character, character) for character in text)


def markdown(text: str) -> str:
    """Text with the special characters of Markdown escaped."""
    return re.sub(r"([|_*<\[\]])", r"\\\1", text)
