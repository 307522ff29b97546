"""The report's tables, as frames of text: a row for each stage."""

from collections.abc import Mapping, Sequence

import pandas as pd

from nnunetv2_selfreg.inspect.measure import Inspection
from nnunetv2_selfreg.inspect.model import short
from nnunetv2_selfreg.inspect.values import AREA, DIFFERENCE, IN_CLASS, INPUT, KEYS, NO_MASS, STUDENTS, summarise

TITLES = {
    "redundancy": "redundancy",
    "effective_rank": "effective rank",
    "partner_correlation": "correlation of IFD's pairs",
    "constant_channels": "constant channels",
}


def term_titles(inspections: Sequence[Inspection]) -> dict[str, str]:
    """The titles of the terms of all models, by name."""
    return {term.name: term.title for inspection in inspections for term in inspection.model.terms}


def compared(inspections: Sequence[Inspection]) -> dict[str, str]:
    """The titles of what two models are compared by; they may differ in their numbers of channels."""
    titles = {
        IN_CLASS: "in-class share",
        "redundancy": "redundancy",
        "effective_rank_share": "effective rank / channels",
    }
    return titles | {"partner_correlation": TITLES["partner_correlation"]} | term_titles(inspections)


def make_tables(
    inspections: Sequence[Inspection], values: pd.DataFrame, paired: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """All tables of the report.

    Args:
        inspections: One model, or the two of a comparison.
        values: The values of all models.
        paired: The differences of two models; empty for one.

    Returns:
        By name: `models`, `differences`, `shares`, `channels` and `losses`.
    """
    letters = {inspection.letter: inspection.letter and f", {inspection.letter}" for inspection in inspections}
    stages = {stage: short(stage) for stage in inspections[0].model.stages}
    # the share of the area stands below the in-class shares
    cells = _cells(values.replace({"measure": {AREA: IN_CLASS}}))
    without_mass = values[values["measure"] == NO_MASS].groupby(["model", "stage", "class"])["value"].sum()
    for (letter, stage, target), count in without_mass[without_mass > 0].items():
        cells[letter, IN_CLASS, stage, target] += f" ({count:.0f})"
    classes = {target.name: (IN_CLASS, target.name) for target in inspections[0].model.targets}
    channels = _table(cells, letters, stages, {title: (measure, "") for measure, title in TITLES.items()})
    for number, inspection in enumerate(inspections, start=1):
        counts = [inspection.grids[stage][0] for stage in stages]
        channels.insert(number, f"channels{letters[inspection.letter]}", counts)
    terms = {title: (name, "") for name, title in term_titles(inspections).items()}
    students = {stage: _marked(stage, inspections) for each in inspections for stage in (*stages, *each.model.students)}
    models = [
        (i.label, i.model.folder.dataset, i.model.fold, i.model.epochs, sum(i.patches.values())) for i in inspections
    ]
    differing = {f"in-class share, {name}": key for name, key in classes.items()}
    differing |= {
        title if name != IN_CLASS else f"{title}, mean of the classes": (name, "")
        for name, title in compared(inspections).items()
    }
    with_students = stages | {STUDENTS: "all students"}
    return {
        "models": pd.DataFrame(models, columns=["model", "data set", "fold", "epochs", "patches"]),
        "differences": _table(_cells(paired, signed=True), {DIFFERENCE: ""}, with_students, differing, "").rename(
            columns={"stage": "B minus A"}
        ),
        "shares": _table(cells, letters, stages | {INPUT: "share of the area"}, classes),
        "channels": channels,
        "losses": _table(cells, letters, students | {STUDENTS: "all students, as in the training"}, terms),
    }


def _table(
    cells: Mapping[tuple[str, ...], str],
    letters: Mapping[str, str],
    stages: Mapping[str, str],
    columns: Mapping[str, tuple[str, str]],
    missing: str = "none",
) -> pd.DataFrame:
    """The cells of the models, stages, and measures and classes, under the titles that these have here."""
    table = {
        title + of: [cells.get((letter, measure, stage, target), missing) for stage in stages]
        for title, (measure, target) in columns.items()
        for letter, of in letters.items()
    }
    return pd.DataFrame({"stage": list(stages.values())} | table)


def _cells(values: pd.DataFrame, signed: bool = False) -> dict[tuple[str, ...], str]:
    """Mean and standard deviation as text, of differences also the sign, by model, measure, stage and class."""
    cells = {}
    for key, row in summarise(values).set_index(["model", *KEYS]).iterrows():
        mean = "none" if pd.isna(row["mean"]) else f"{row['mean']:{'+' * signed}.3f}"
        sd = "" if pd.isna(row["sd"]) else f" ± {row['sd']:.3f}"
        cells[key] = mean + sd + f"\n{row['higher']:.0f} of {row['cases']:.0f} up" * signed
    return cells


def _marked(stage: str, inspections: Sequence[Inspection]) -> str:
    """A stage's short name, for a student with a star, and the model's letter where it is one in that model only."""
    of = [inspection.letter for inspection in inspections if stage in inspection.model.students]
    return short(stage) + "*" * bool(of) + (f" ({of[0]} only)" if 0 < len(of) < len(inspections) else "")
