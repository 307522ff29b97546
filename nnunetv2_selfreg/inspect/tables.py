"""The report's tables, as frames of text: a row for each stage."""

from collections.abc import Mapping, Sequence

import pandas as pd

from nnunetv2_selfreg.inspect.measure import Inspection
from nnunetv2_selfreg.inspect.model import short
from nnunetv2_selfreg.inspect.values import AREA, DIFFERENCE, IN_CLASS, INPUT, KEYS, NO_MASS, STUDENTS, summarise

TITLES = {
    IN_CLASS: "in-class share",
    "redundancy": "redundancy",
    "effective_rank": "effective rank",
    "effective_rank_share": "effective rank / channels",
    "partner_correlation": "correlation of IFD's pairs",
    "constant_channels": "constant channels",
}
# of a column: the model's letter, the measure and the class
Column = tuple[str, str, str]


def term_titles(inspections: Sequence[Inspection]) -> dict[str, str]:
    """The titles of the terms of all models, by name."""
    return {term.name: term.title for inspection in inspections for term in inspection.model.terms}


def compared(inspections: Sequence[Inspection]) -> dict[str, str]:
    """The titles of what two models are compared by; they may differ in their numbers of channels."""
    names = (IN_CLASS, "redundancy", "effective_rank_share", "partner_correlation")
    return {name: TITLES[name] for name in names} | term_titles(inspections)


def models_table(inspections: Sequence[Inspection]) -> pd.DataFrame:
    """What was inspected."""
    rows = [
        (i.label, i.model.folder.dataset, i.model.fold, i.model.epochs, sum(i.patches.values())) for i in inspections
    ]
    return pd.DataFrame(rows, columns=["model", "data set", "fold", "epochs", "patches"])


def share_table(inspections: Sequence[Inspection], values: pd.DataFrame) -> pd.DataFrame:
    """In-class share and maps without mass, by class and stage; last the class's share of the area."""
    cells = _cells(values.replace({"measure": {AREA: IN_CLASS}}))
    keys = ["model", "stage", "class"]
    for (letter, stage, target), count in values[values["measure"] == NO_MASS].groupby(keys)["value"].sum().items():
        if count:
            cells[letter, IN_CLASS, stage, target] += f" ({count:.0f})"
    columns = {
        f"{target.name}{_of(i)}": (i.letter, IN_CLASS, target.name)
        for target in inspections[0].model.targets
        for i in inspections
    }
    return _table(cells, _stages(inspections) | {INPUT: "share of the area"}, columns)


def channels_table(inspections: Sequence[Inspection], values: pd.DataFrame) -> pd.DataFrame:
    """What was measured of the channels."""
    measures = ("redundancy", "effective_rank", "partner_correlation", "constant_channels")
    table = _measures_table(inspections, values, _stages(inspections), {name: TITLES[name] for name in measures})
    for number, i in enumerate(inspections, start=1):
        table.insert(number, f"channels{_of(i)}", [i.grids[stage][0] for stage in i.model.stages])
    return table


def losses_table(inspections: Sequence[Inspection], values: pd.DataFrame) -> pd.DataFrame:
    """The terms at each stage, and at each first block of a stage that is a student."""
    students = {name: None for i in inspections for name in i.model.students}
    stages = {}
    for stage in [*inspections[0].model.stages, *students]:
        of = [i.letter for i in inspections if stage in i.model.students]
        stages[stage] = short(stage) + ("" if not of else "*" if len(of) == len(inspections) else f"* ({of[0]} only)")
    return _measures_table(
        inspections, values, stages | {STUDENTS: "all students, as in the training"}, term_titles(inspections)
    )


def differences_table(inspections: Sequence[Inspection], differences: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation and sign of B minus A, by stage and measure."""
    summary = summarise(differences).set_index(["model", *KEYS])
    cells = {
        key: _text(row["mean"], row["sd"], "+.3f") + f"\n{row['higher']:.0f} of {row['cases']:.0f} up"
        for key, row in summary.iterrows()
    }
    classes = {target.name: target.name for target in inspections[0].model.targets} | {"": "mean of the classes"}
    columns = {f"{TITLES[IN_CLASS]}, {text}": (DIFFERENCE, IN_CLASS, name) for name, text in classes.items()}
    columns |= {title: (DIFFERENCE, name, "") for name, title in compared(inspections).items() if name != IN_CLASS}
    stages = _stages(inspections) | {STUDENTS: "all students"}
    return _table(cells, stages, columns, missing="").rename(columns={"stage": "B minus A"})


def _measures_table(
    inspections: Sequence[Inspection], values: pd.DataFrame, stages: Mapping[str, str], titles: Mapping[str, str]
) -> pd.DataFrame:
    columns = {f"{title}{_of(i)}": (i.letter, name, "") for name, title in titles.items() for i in inspections}
    return _table(_cells(values), stages, columns)


def _table(
    cells: Mapping[tuple[str, str, str, str], str],
    stages: Mapping[str, str],
    columns: Mapping[str, Column],
    missing: str = "none",
) -> pd.DataFrame:
    """The cells of the stages and columns, under the titles that these have here."""
    table = {
        title: [cells.get((letter, measure, stage, target), missing) for stage in stages]
        for title, (letter, measure, target) in columns.items()
    }
    return pd.DataFrame({"stage": list(stages.values())} | table)


def _cells(values: pd.DataFrame) -> dict[tuple[str, str, str, str], str]:
    """Mean and standard deviation over cases as text, by model, measure, stage and class."""
    summary = summarise(values).set_index(["model", *KEYS])
    return {key: _text(row["mean"], row["sd"], ".3f") for key, row in summary.iterrows()}


def _text(mean: float, sd: float, form: str) -> str:
    return "none" if pd.isna(mean) else f"{mean:{form}}" + ("" if pd.isna(sd) else f" ± {sd:.3f}")


def _stages(inspections: Sequence[Inspection]) -> dict[str, str]:
    return {stage: short(stage) for stage in inspections[0].model.stages}


def _of(inspection: Inspection) -> str:
    return f", {inspection.letter}" if inspection.letter else ""
