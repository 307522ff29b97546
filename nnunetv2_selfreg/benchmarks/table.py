"""`table.md`, `table.tex`, `table.csv`, `table.json` and `table.html` of a folder of scored runs."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape

from nnunetv2_selfreg.benchmarks import cells, plots
from nnunetv2_selfreg.benchmarks.comparison import MEAN, by_case
from nnunetv2_selfreg.benchmarks.metrics import METRICS, RULES
from nnunetv2_selfreg.benchmarks.results import Arm, Section, epochs, read_results
from nnunetv2_selfreg.benchmarks.summary import DIFFERENCE, PUBLISHED, SCORED, summarise
from nnunetv2_selfreg.files import write_json, write_text

DAGGER = "†"
HONESTY = (
    "The published methods chose their checkpoint by other rules, partly on the test set, and are other networks; "
    "nnU-Net uses the final checkpoint. What says whether SelfReg helps is the difference to the same nnU-Net without "
    "it, over folds or seeds. Two identical nnU-Net trainings can differ by half a Dice point."
)
STATISTICS = (
    "Difference: SelfReg minus stock, of a case's scores averaged over the runs that both have. CI: 95 % percentile "
    "bootstrap, 10 000 resamples of {unit}, seed 0. p: two-sided Wilcoxon signed-rank test on the means of {unit}, "
    "zeros left out, not corrected for the number of classes. Better and worse: cases by more than one point (Dice, "
    "IoU, accuracy), one voxel or one mm (HD95)."
)
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "_%&#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    DAGGER: r"$^{\dagger}$",
}


Grid = tuple[str, pd.DataFrame, list[int]]  # title, cells, and the numbers of the rows that a line is drawn above


def write_table(results: Path, output: Path) -> list[Path]:
    """Writes the table in every format.

    Args:
        results: What `leaderboard score` wrote to.
        output: The folder to write to.

    Returns:
        The files.

    Raises:
        SelfRegError: The runs cannot be read, or runs that would share a table differ in their cases.
    """
    sections = read_results(results)
    tables = [summarise(section) for section in sections]
    pages = [_page(section, table) for section, table in zip(sections, tables, strict=True)]
    texts = {ending: _rendered(f"table.{ending}.jinja", pages) for ending in ("md", "tex", "html")}
    texts["csv"] = pd.concat(tables).to_csv(index=False, lineterminator="\n")
    paths = [output / f"table.{ending}" for ending in ("md", "tex", "csv", "html", "json")]
    for path in paths[:-1]:
        write_text(path, texts[path.suffix[1:]])
    contents = [_content(section, table) for section, table in zip(sections, tables, strict=True)]
    write_json(paths[-1], {"tables": contents})
    return paths


def _content(section: Section, table: pd.DataFrame) -> dict[str, Any]:
    """What `table.json` holds of a section."""
    names = ("name", "trainer", "plans", "configuration", "incomplete")
    return {
        "benchmark": section.benchmark,
        "title": section.definition.title,
        "protocol": section.protocol,
        "arms": [{name: getattr(arm, name) for name in names} | {"runs": arm.sidecars} for arm in section.arms],
        "rows": json.loads(table.to_json(orient="records", double_precision=15)),
        "elsewhere": list(map(asdict, section.elsewhere)),
    }


def _page(section: Section, table: pd.DataFrame) -> dict[str, Any]:
    """A section as text and plots, for the templates."""
    classes = list(section.definition.classes)
    shown = [MEAN, *classes] if len(classes) > 1 else [MEAN]
    table = table[table["class"].isin(shown)]
    arms = _by_line((arm.name, arm.incomplete) for arm in section.arms)
    pairs = _by_line((pair.name, [line for line in pair.incomplete if line not in arms]) for pair in section.pairs)
    return {
        "title": f"{section.definition.title}, {section.protocol}",
        "warnings": [f"{DAGGER} {line}: {'; '.join(names)}" for line, names in (arms | pairs).items()],
        "parts": [
            {
                "grids": list(_grids(rule, metric, rows, shown)),
                "notes": _notes(section, rule, metric, rows),
                "plots": list(_plots(section, rule, metric, rows, shown)),
            }
            for (rule, metric), rows in table.groupby(["rule", "metric"], sort=False)
        ],
        "footer": _footer(section),
    }


def _grids(rule: str, name: str, rows: pd.DataFrame, shown: Sequence[str]) -> Iterator[Grid]:
    """The tables of one rule and metric: the means, then the differences if there are any."""
    metric = METRICS[name]
    title = f"{metric.title} [{metric.unit}], {RULES[rule]}{'' if metric.higher_is_better else ', lower is better'}"
    rows = rows.assign(cell=[cells.plus_minus(*pair) for pair in zip(rows["value"], rows["sd"], strict=True)])
    lines = []
    for kind in (SCORED, PUBLISHED):
        for number, (label, values) in enumerate(rows[rows["kind"] == kind].groupby("name", sort=False), 1):
            first, by_class = values.iloc[0], values.set_index("class")["cell"].reindex(shown, fill_value="-")
            start = [_marked(label, first["incomplete"]), str(first["runs"])]
            lines.append([*(start if kind == SCORED else [f"published: {label} [{number}]", ""]), *by_class])
    scored = rows.loc[rows["kind"] == SCORED, "name"].nunique()
    yield title, pd.DataFrame(lines, columns=["", "runs", *shown]), [scored] if len(lines) > scored else []
    differences = rows[rows["kind"] == DIFFERENCE].rename(columns={"value": "mean"}).to_dict("records")
    if differences:
        labels = [_marked(row["name"], row["incomplete"]) if row["class"] == MEAN else "" for row in differences]
        lines = [[label, row["class"], *cells.difference(row)] for label, row in zip(labels, differences, strict=True)]
        head = ["", "class", f"difference [{metric.difference_unit}]", *cells.DIFFERENCE]
        rules = [number for number, label in enumerate(labels) if label]
        yield f"Difference in {title}", pd.DataFrame(lines, columns=head), rules[1:]


def _notes(section: Section, rule: str, metric: str, rows: pd.DataFrame) -> list[str]:
    """What must be said below the tables of one rule and metric."""
    published = enumerate(section.published(rule, metric), 1)
    lines = [f"[{number}] {row.method}: {row.source}; {row.caveat}." for number, row in published]
    if not_counted := rows.loc[rows["class"] == MEAN, "not_counted"].sum():
        lines.append(f"Not counted by the rule: {not_counted} scores of a class in a case.")
    return lines


def _plots(section: Section, rule: str, name: str, rows: pd.DataFrame, shown: list[str]) -> Iterator[tuple[str, str]]:
    """The plots of one rule and metric: caption, and SVG in base64."""
    metric = METRICS[name]
    what = f"{metric.title}, {RULES[rule]}"
    bars = plots.bars(rows[rows["kind"] == SCORED], metric, shown)
    yield f"{what}: mean by class; error bars: deviation over runs", b64encode(bars).decode()
    better = f"{'above' if metric.higher_is_better else 'below'} 0 is better"
    for pair in section.pairs:
        sides = [arm.of(rule, name, pair.runs) for arm in (pair.selfreg, pair.stock)]
        selfreg, stock = (by_case(side, section.definition.classes) for side in sides)
        found = rows[(rows["kind"] == DIFFERENCE) & (rows["name"] == pair.name)].set_index("class").loc[shown]
        drawn = plots.differences(selfreg - stock, metric, found.rename(columns={"value": "mean"}))
        names = f"{pair.selfreg.name} minus {pair.stock.name}"
        yield f"{what}: {names}, one point per case; {better}", b64encode(drawn).decode()


def _footer(section: Section) -> list[str]:
    """Test set, statistics, and what each row is made of."""
    protocol = section.definition
    lines = [f"Test set: {protocol.split}. Mean over cases, then over classes; ± is the deviation over runs."]
    lines += [STATISTICS.format(unit=protocol.unit)] if section.pairs else []
    lines += [HONESTY] if len(protocol.published) > len(section.elsewhere) else []
    lines += [_made_of(arm, protocol.unit) for arm in section.arms]
    missing = _by_line((arm.name, [names]) for arm in section.arms if (names := ", ".join(_missing(arm))))
    lines += [f"Missing in the test set: {names} ({'; '.join(rows)})." for names, rows in missing.items()]
    for row in section.elsewhere:
        value = cells.number(row.values[MEAN])
        lines.append(f"Not comparable ({row.protocol}): {row.method} {value}, {row.source}.")
    return lines


def _rendered(template: str, pages: Sequence[Mapping[str, Any]]) -> str:
    # braces are LaTeX's own
    marks: Any = {"variable_start_string": "<<", "variable_end_string": ">>", "comment_start_string": "<#"}
    environment = Environment(
        loader=PackageLoader("nnunetv2_selfreg.benchmarks"),
        autoescape=select_autoescape(["html.jinja"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **marks if ".tex." in template else {},
    )
    environment.filters |= {"latex": latex, "escaped": markdown, "markdown": _markdown_table}
    return environment.get_template(template).render(pages=pages)


def latex(text: str) -> str:
    """Text with every special character of LaTeX escaped."""
    return "".join(_LATEX.get(character, character) for character in text)


def markdown(text: str) -> str:
    """Text with the special characters of Markdown escaped."""
    return re.sub(r"([|_*<\[\]])", r"\\\1", text)


def _markdown_table(frame: pd.DataFrame) -> str:
    return cells.markdown(frame.map(markdown).rename(columns=markdown))


def _made_of(arm: Arm, unit: str) -> str:
    """Plans, folds, epochs, versions and settings of one row."""
    runs = list(arm.sidecars.values())
    folds = sorted({fold for run in runs for fold in run["epochs"]})
    versions = sorted({f"{name} {value}" for run in runs for name, value in run["versions"].items()})
    settings: dict[str, Any] = next((run["selfreg"] for run in runs if run.get("selfreg")), {})
    named = {
        "trainer": arm.trainer,
        "plans": arm.plans,
        "configuration": arm.configuration,
        "data set": runs[0].get("dataset", ""),
        "runs": ", ".join(arm.sidecars),
        "folds": ", ".join(folds),
        "epochs": ", ".join(epochs(runs)) or "unknown",
        "SelfReg": ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None),
    }
    parts = [f"{name} {value}" for name, value in named.items() if value]
    parts += [f"{runs[0]['cases']} cases of {runs[0]['clusters']} {unit}", ", ".join(versions)]
    parts += [f"{DAGGER} {'; '.join(arm.incomplete)}"] if arm.incomplete else []
    return f"{_marked(arm.name, arm.incomplete)}: {'; '.join(parts)}."


def _missing(arm: Arm) -> list[str]:
    missing = [run["missing"].get(part, []) for run in arm.sidecars.values() for part in ("test", "predictions")]
    return list(dict.fromkeys(name for names in missing for name in names))


def _by_line(concerned: Iterable[tuple[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Whom each line concerns, from the lines of each."""
    names: dict[str, list[str]] = {}
    for name, lines in concerned:
        for line in lines:
            names.setdefault(line, []).append(name)
    return names


def _marked(name: str, incomplete: str | Sequence[str]) -> str:
    return f"{name} {DAGGER}" if incomplete else name
