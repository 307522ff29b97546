"""`table.md`, `table.tex`, `table.csv`, `table.json` and `table.html` of a folder of scored runs."""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape

from nnunetv2_selfreg.benchmarks import cells, plots
from nnunetv2_selfreg.benchmarks.comparison import MEAN
from nnunetv2_selfreg.benchmarks.metrics import METRICS, RULES
from nnunetv2_selfreg.benchmarks.results import Arm, Section, epochs, read_results
from nnunetv2_selfreg.benchmarks.summary import (
    DIFFERENCE,
    PUBLISHED,
    SCORED,
    Measure,
    elsewhere,
    measures,
    table_csv,
    table_json,
)  # fmt: skip
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


@dataclass(frozen=True)
class Grid:
    """One table as text, for every format.

    Attributes:
        title: Metric, unit and rule.
        cells: What is shown; the first column names the row.
        rules: Numbers of the rows that a line is drawn above.
    """

    title: str
    cells: pd.DataFrame
    rules: Sequence[int] = ()

    @property
    def head(self) -> list[str]:
        """The columns' heads."""
        return list(self.cells)

    @property
    def rows(self) -> list[list[str]]:
        """The cells, row by row."""
        return self.cells.to_numpy().tolist()


@dataclass(frozen=True)
class Page:
    """One benchmark and protocol as text and plots, for the templates."""

    section: Section
    parts: Sequence[Measure]

    @property
    def title(self) -> str:
        """Benchmark and protocol."""
        return f"{self.section.definition.title}, {self.section.protocol}"

    @property
    def shown(self) -> list[str]:
        """The columns of values; of one class its mean alone."""
        classes = self.section.definition.classes
        return [MEAN, *classes] if len(classes) > 1 else [MEAN]

    @property
    def warnings(self) -> list[str]:
        """In what its rows and differences fall short of the protocol, each with whom it concerns."""
        of_arms = _by_line((arm.name, arm.incomplete) for arm in self.section.arms)
        of_pairs = _by_line((pair.name, pair.incomplete) for pair in self.section.pairs)
        lines = of_arms | {line: names for line, names in of_pairs.items() if line not in of_arms}
        return [f"{DAGGER} {line}: {'; '.join(names)}" for line, names in lines.items()]

    @property
    def footer(self) -> list[str]:
        """Test set, statistics, and what each row is made of."""
        protocol, arms = self.section.definition, self.section.arms
        lines = [f"Test set: {protocol.split}. Mean over cases, then over classes; ± is the deviation over runs."]
        if self.section.pairs:
            lines.append(STATISTICS.format(unit=protocol.unit))
        if any(part.published for part in self.parts):
            lines.append(HONESTY)
        lines += [_made_of(arm, protocol.unit) for arm in arms]
        missing = _by_line((arm.name, [names]) for arm in arms if (names := ", ".join(_missing(arm))))
        lines += [f"Missing in the test set: {names} ({'; '.join(rows)})." for names, rows in missing.items()]
        for row in elsewhere(self.section):
            value = cells.number(row.values[MEAN])
            lines.append(f"Not comparable ({row.protocol}): {row.method} {value}, {row.source}.")
        return lines

    def grids(self, part: Measure) -> Iterator[Grid]:
        """The tables of one rule and metric: the means, then the differences if there are any."""
        metric = part.definition
        title = f"{metric.title} [{metric.unit}], {RULES[part.rule]}"
        title += "" if metric.higher_is_better else ", lower is better"
        rows = []
        for kind in (SCORED, PUBLISHED):
            for number, (name, values) in enumerate(part.of(kind).groupby("name", sort=False), 1):
                first = values.iloc[0]
                label = f"published: {name} [{number}]" if kind == PUBLISHED else _marked(name, first["incomplete"])
                shown = values.set_index("class").reindex(self.shown)[["value", "sd"]].itertuples(index=False)
                runs = str(first["runs"]) if kind == SCORED else ""
                rows.append([label, runs, *(cells.plus_minus(*pair) for pair in shown)])
        scored = len(self.section.arms)
        frame = pd.DataFrame(rows, columns=["", "runs", *self.shown])
        yield Grid(title, frame, [scored] if len(rows) > scored else [])
        differences = part.of(DIFFERENCE)
        differences = differences[differences["class"].isin(self.shown)].rename(columns={"value": "mean"})
        if len(differences):
            labels = [
                _marked(row["name"], row["incomplete"]) if row["class"] == MEAN else ""
                for row in differences.to_dict("records")
            ]
            rows = [
                [label, row["class"], *cells.difference(row)]
                for label, row in zip(labels, differences.to_dict("records"), strict=True)
            ]
            head = ["", "class", f"difference [{metric.difference_unit}]", *cells.DIFFERENCE]
            rules = [number for number, label in enumerate(labels) if label]
            yield Grid(f"Difference in {title}", pd.DataFrame(rows, columns=head), rules[1:])

    def notes(self, part: Measure) -> list[str]:
        """What must be said below the tables of one rule and metric."""
        rows = enumerate(part.published, 1)
        lines = [f"[{number}] {row.method}: {row.source}; {row.caveat}." for number, row in rows]
        if part.not_counted:
            lines.append(f"Not counted by the rule: {part.not_counted} scores of a class in a case.")
        return lines

    def plots(self, part: Measure) -> Iterator[tuple[str, str]]:
        """The plots of one rule and metric: caption, and SVG in base64."""
        metric = METRICS[part.metric]
        what = f"{metric.title}, {RULES[part.rule]}"
        bars = plots.bars(part.of(SCORED), metric, self.shown)
        yield f"{what}: mean by class; error bars: deviation over runs", b64encode(bars).decode()
        better = "above 0 is better" if metric.higher_is_better else "below 0 is better"
        for pair in self.section.pairs:
            found = part.of(DIFFERENCE, pair.name).rename(columns={"value": "mean"}).set_index("class")
            drawn = plots.differences(part.gains[pair.name], metric, found.loc[self.shown])
            names = f"{pair.selfreg.name} minus {pair.stock.name}"
            yield f"{what}: {names}, one point per case; {better}", b64encode(drawn).decode()


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
    pages = [Page(section, measures(section)) for section in read_results(results)]
    texts = {ending: rendered(f"table.{ending}.jinja", pages) for ending in ("md", "tex")}
    texts["csv"] = table_csv([part for page in pages for part in page.parts])
    texts["html"] = rendered("table.html.jinja", pages)
    paths = [output / f"table.{ending}" for ending in (*texts, "json")]
    for path, text in zip(paths, texts.values(), strict=False):
        write_text(path, text)
    write_json(paths[-1], {"tables": [table_json(page.section, page.parts) for page in pages]})
    return paths


def rendered(template: str, pages: Sequence[Page]) -> str:
    """Fills one of the templates."""
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
