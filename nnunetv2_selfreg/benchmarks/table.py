"""`table.md`, `table.tex`, `table.csv`, `table.json` and `table.html` of a folder of scored runs."""

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape

from nnunetv2_selfreg.benchmarks import cells, plots
from nnunetv2_selfreg.benchmarks.metrics import METRICS, RULES
from nnunetv2_selfreg.benchmarks.results import DIFFERENCE, PUBLISHED, SCORED, Section, read_results
from nnunetv2_selfreg.comparison import MEAN, by_case
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import new_file

Grid = tuple[str, pd.DataFrame, list[int]]  # title, cells, and the numbers of the rows that a line is drawn above


def write_table(results: Path, output: Path) -> list[Path]:
    """Writes the table in every format, or in none.

    Args:
        results: What `leaderboard score` wrote to.
        output: The folder to write to.

    Returns:
        The files.

    Raises:
        SelfRegError: The runs cannot be read, runs that would share a table differ in their cases, or the folder holds
            a file of such a name that is none of a table.
    """
    paths = [output / f"table.{ending}" for ending in ("md", "tex", "csv", "html", "json")]
    there = [path for path in paths if path.exists()]
    if there and not _is_table(output / "table.json"):
        raise SelfRegError(
            f"{there[0]} has no table.json of a leaderboard beside it; move it, or name another folder with -o"
        )
    tables = [(section, section.numbers()) for section in read_results(results)]
    pages = [_page(section, table) for section, table in tables]
    texts = {ending: _rendered(f"table.{ending}.jinja", pages=pages) for ending in ("md", "tex", "html")}
    texts["csv"] = pd.concat([table for _, table in tables]).to_csv(index=False, lineterminator="\n")
    content = {"tables": [_content(section, table) for section, table in tables]}
    texts["json"] = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with ExitStack() as stack:  # the files take their places together, once all are written
        for path in paths:
            stack.enter_context(new_file(path)).write_text(texts[path.suffix[1:]], encoding="utf-8", newline="")
    return paths


def _is_table(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and isinstance(content.get("tables"), list)


def _content(section: Section, table: pd.DataFrame) -> dict[str, Any]:
    """What `table.json` holds of a section."""
    names = ("name", "trainer", "plans", "configuration", "incomplete")
    return {
        "benchmark": section.benchmark,
        "title": section.definition.title,
        "protocol": section.protocol,
        "arms": [{name: getattr(arm, name) for name in names} | {"runs": arm.sidecars} for arm in section.arms],
        "rows": json.loads(table.to_json(orient="records", double_precision=15)),
        "unpaired": section.unpaired,
        "elsewhere": list(map(asdict, section.elsewhere)),
    }


def _page(section: Section, table: pd.DataFrame) -> dict[str, Any]:
    """A section as text and plots, for the templates."""
    classes = list(section.definition.classes)
    shown = [MEAN, *classes] if len(classes) > 1 else [MEAN]
    table = table[table["class"].isin(shown)]
    arms = _by_line((arm.name, arm.incomplete) for arm in section.arms)
    pairs = _by_line((pair.name, [line for line in pair.incomplete if line not in arms]) for pair in section.pairs)
    missing = _by_line((arm.name, [", ".join(arm.missing)]) for arm in section.arms if arm.missing)
    parts = []
    for (rule, metric), rows in table.groupby(["rule", "metric"], sort=False):
        published, not_counted = section.published(rule, metric), rows.loc[rows["class"] == MEAN, "not_counted"].sum()
        notes = _paragraphs("notes.txt.jinja", published=published, not_counted=not_counted)
        drawn = [(*texts, b64encode(svg).decode()) for *texts, svg in _plots(section, rule, metric, rows, shown)]
        parts.append({"grids": list(_grids(rule, metric, rows, shown)), "notes": notes, "plots": drawn})
    return {
        "title": f"{section.definition.title}, {section.protocol}",
        "warnings": [f"† {line}: {names}" for line, names in (arms | pairs).items()]
        + [f"No difference for {name}: {reason}" for name, reason in section.unpaired.items()],
        "parts": parts,
        "footer": _paragraphs("footer.txt.jinja", section=section, missing=missing),
    }


def _grids(rule: str, name: str, rows: pd.DataFrame, shown: Sequence[str]) -> Iterator[Grid]:
    """The tables of one rule and metric: the means, then the differences if there are any."""
    metric = METRICS[name]
    title = f"{metric.title} [{metric.unit}], {RULES[rule]}{'' if metric.higher_is_better else ', lower is better'}"
    lines = []
    for kind in (SCORED, PUBLISHED):
        for number, (label, values) in enumerate(rows[rows["kind"] == kind].groupby("name", sort=False), 1):
            first, by_class = values.iloc[0], values.set_index("class")[["value", "sd"]].reindex(shown)
            mine = [_marked(first), str(first["runs"])]
            start = mine if kind == SCORED else [f"published: {label} [{number}]", ""]
            lines.append([*start, *(cells.plus_minus(*pair) for pair in by_class.to_numpy(float))])
    scored = rows.loc[rows["kind"] == SCORED, "name"].nunique()
    yield title, pd.DataFrame(lines, columns=["", "runs", *shown]), [scored] if len(lines) > scored else []
    differences = rows[rows["kind"] == DIFFERENCE].rename(columns={"value": "mean"}).to_dict("records")
    if differences:
        labels = [_marked(row) if row["class"] == MEAN else "" for row in differences]
        over_folds = [cells.interval(row["low_over_folds"], row["high_over_folds"]) for row in differences]
        lines = [
            [label, row["class"], *cells.difference(row), ends]
            for label, row, ends in zip(labels, differences, over_folds, strict=True)
        ]
        head = ["", "class", f"difference [{metric.difference_unit}]", *cells.DIFFERENCE_COLUMNS, "95 % CI over folds"]
        if set(over_folds) == {"-"}:  # an ensemble, or a single fold
            lines, head = [line[:-1] for line in lines], head[:-1]
        rules = list(range(len(shown), len(lines), len(shown)))
        yield f"Difference in {title}", pd.DataFrame(lines, columns=head), rules


def _plots(
    section: Section, rule: str, name: str, rows: pd.DataFrame, shown: list[str]
) -> Iterator[tuple[str, str, bytes]]:
    """The plots of one rule and metric: each one's caption, what it shows in words, and its SVG."""
    metric, title = METRICS[name], f"{METRICS[name].title}, {RULES[rule]}"
    scored = rows[rows["kind"] == SCORED]
    arms = [part.to_dict("records") for _, part in scored.groupby("name", sort=False)]
    spread = [any(row["sd"] > 0 for row in arm) for arm in arms]
    bars = "; error bars: standard deviation over runs" if any(spread) else ""
    some = ", where there are several" if bars and not all(spread) else ""
    words = "; ".join(f"{arm[0]['name']}: {', '.join(map(cells.mean_in_words, arm))}" for arm in arms)
    caption = f"{title}: mean of each class{bars}{some}; the axis covers their range alone"
    yield caption, f"{title} [{metric.unit}]: {words}", plots.means(scored, metric, shown)
    for pair in section.pairs:
        sides = [arm.of(rule, name, pair.runs) for arm in (pair.selfreg, pair.stock)]
        selfreg, stock = (by_case(side, section.definition.classes) for side in sides)
        found = rows[(rows["kind"] == DIFFERENCE) & (rows["name"] == pair.name)].rename(columns={"value": "mean"})
        words = "; ".join(map(cells.difference_in_words, found.to_dict("records")))
        caption = f"{title}: {pair.selfreg.name} minus {pair.stock.name}"
        drawn = plots.differences(selfreg - stock, metric, found.set_index("class").loc[shown])
        side = "above" if metric.higher_is_better else "below"
        yield (
            f"{caption}, one point per case; {side} 0 is better",
            f"{caption} [{metric.difference_unit}]: {words}",
            drawn,
        )


def _rendered(template: str, **values: Any) -> str:
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
    environment.filters |= {"latex": cells.latex, "escaped": cells.markdown, "number": cells.number}
    return environment.get_template(template).render(values)


def _paragraphs(template: str, **values: Any) -> list[str]:
    """A text's paragraphs, each as one line."""
    return [" ".join(part.split()) for part in _rendered(template, **values).split("\n\n") if part.strip()]


def _by_line(concerned: Iterable[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Whom each line concerns, from the lines of each."""
    names: dict[str, list[str]] = {}
    for name, lines in concerned:
        for line in lines:
            names.setdefault(line, []).append(name)
    return {line: "; ".join(named) for line, named in names.items()}


def _marked(row: Any) -> str:
    return f"{row['name']} †" if row["incomplete"] else row["name"]
