"""`table.md`, `table.tex`, `table.csv`, `table.json` and `table.html` of a folder of scored runs."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from math import isnan
from pathlib import Path
from typing import Any

from nnunetv2_selfreg.leaderboard.files import write_json, write_text
from nnunetv2_selfreg.leaderboard.metrics import METRICS, RULES
from nnunetv2_selfreg.leaderboard.protocols import BENCHMARKS
from nnunetv2_selfreg.leaderboard.results import MEAN, Pair, Section, read_results

DAGGER = "†"
HONESTY = (
    "The published methods chose their checkpoint by other rules, partly on the test set, and are other networks; "
    "nnU-Net uses the final checkpoint. What says whether SelfReg helps is the difference to the same nnU-Net without "
    "it, over folds or seeds. Two identical nnU-Net trainings can differ by half a Dice point."
)
STATISTICS = (
    "Difference: SelfReg minus stock, of a case's scores averaged over the runs that both have. CI: 95 % percentile "
    "bootstrap, 10 000 resamples of {unit}, seed 0. p: two-sided Wilcoxon signed-rank test on the means of {unit}, "
    "zeros left out, not corrected for the number of classes. Better and worse: cases by more than {margin}."
)


@dataclass(frozen=True)
class Grid:
    """One table as text, for every format.

    Attributes:
        place: Benchmark and protocol.
        title: Metric, unit and rule.
        header: Column heads.
        rows: Cells, as many as there are heads; the first names the row.
        rules: Numbers of the rows that a line is drawn above.
    """

    place: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    rules: Sequence[int] = ()


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
    from nnunetv2_selfreg.leaderboard.page import html
    from nnunetv2_selfreg.leaderboard.text import latex, markdown

    sections = [summarise(section) for section in read_results(results)]
    texts = {"md": markdown(sections), "tex": latex(sections), "csv": _csv(sections), "html": html(sections)}
    paths = [output / f"table.{ending}" for ending in (*texts, "json")]
    for path, text in zip(paths, texts.values(), strict=False):
        write_text(path, text)
    write_json(paths[-1], {"tables": [summary.content for summary in sections]})
    return paths


def measure(part: Mapping[str, Any]) -> str:
    """Names a metric with its unit and rule."""
    about = METRICS[part["metric"]]
    return f"{about.title} [{about.unit}], {RULES[part['rule']]}" + (
        "" if about.higher_is_better else ", lower is better"
    )


@dataclass(frozen=True)
class Summary:
    """The numbers of a section, and their presentation.

    Attributes:
        section: The runs.
        content: Every number, as `table.json` holds it.
    """

    section: Section
    content: dict[str, Any]

    @property
    def title(self) -> str:
        """Benchmark and protocol."""
        return f"{BENCHMARKS[self.section.benchmark].title}, {self.section.protocol}"

    def grids(self, part: dict[str, Any]) -> Iterator[Grid]:
        """The tables of one rule and metric: the means, then the differences if there are any.

        Args:
            part: One of `content["measures"]`.
        """
        about, classes = METRICS[part["metric"]], BENCHMARKS[self.section.benchmark].classes
        columns = [MEAN, *classes] if len(classes) > 1 else [MEAN]
        what = measure(part)
        arms = [
            [
                _marked(row["name"], row["incomplete"]),
                str(row["runs"]),
                *(_cell(row["values"][name]) for name in columns),
            ]
            for row in part["rows"]
        ]
        others = [
            [f"published: {row['method']} [{number}]", "", *(_number(row["values"].get(name)) for name in columns)]
            for number, row in enumerate(part["published"], 1)
        ]
        yield Grid(self.title, what, ["", "runs", *columns], [*arms, *others], [len(arms)] if others else [])
        if part["differences"]:
            rows: list[list[str]] = []
            rules = []
            for pair in part["differences"]:
                rules.append(len(rows))
                label = _marked(pair["name"], pair["incomplete"])
                for name in columns:
                    rows.append([label if name == MEAN else "", name, *_difference(pair["classes"][name])])
            unit = "points" if about.unit == "%" else about.unit
            head = ["", "class", f"difference [{unit}]", "95 % CI", "p", "better", "worse", "cases"]
            yield Grid(self.title, f"Difference in {what}", head, rows, rules[1:])

    @property
    def warnings(self) -> list[str]:
        """In what its rows and differences fall short of the protocol, each with whom it concerns."""
        concerned: dict[str, list[str]] = {}
        for arm in self.content["arms"]:
            for line in arm["incomplete"]:
                concerned.setdefault(line, []).append(arm["name"])
        of_arms = set(concerned)
        for pair in self.content["measures"][0]["differences"]:
            for line in pair["incomplete"]:
                if line not in of_arms:
                    concerned.setdefault(line, []).append(pair["name"])
        return [f"{DAGGER} {line}: {'; '.join(names)}" for line, names in concerned.items()]

    def notes(self, part: dict[str, Any]) -> list[str]:
        """What must be said below the tables of one rule and metric."""
        lines = [
            f"[{number}] {row['method']}: {row['source']}; {row['caveat']}."
            for number, row in enumerate(part["published"], 1)
        ]
        if part["not_counted"]:
            lines.append(f"Not counted by the rule: {part['not_counted']} scores of a class in a case.")
        return lines

    @property
    def footer(self) -> list[str]:
        """Test set, statistics, and what each row is made of."""
        benchmark = BENCHMARKS[self.section.benchmark]
        lines = [f"Test set: {benchmark.split}. Mean over cases, then over classes; ± is the deviation over runs."]
        if self.section.pairs:
            margin = "one point (Dice, IoU, accuracy), one voxel or one mm (HD95)"
            lines.append(STATISTICS.format(unit=benchmark.unit, margin=margin))
        if any(part["published"] for part in self.content["measures"]):
            lines.append(HONESTY)
        lines += [_made_of(row) for row in self.content["arms"]]
        lines += _missing(self.content["arms"])
        for row in self.content["elsewhere"]:
            value = _number(row["values"][MEAN])
            lines.append(f"Not comparable ({row['protocol']}): {row['method']} {value}, {row['source']}.")
        return lines


def summarise(section: Section) -> Summary:
    """Computes every number of a section."""
    classes = BENCHMARKS[section.benchmark].classes
    arms = [
        {
            "name": arm.name,
            "trainer": arm.trainer,
            "plans": arm.plans,
            "configuration": arm.configuration,
            "incomplete": arm.incomplete,
            "runs": dict(arm.about),
        }
        for arm in section.arms
    ]
    measures = []
    for rule, metric in section.measures:
        frames = [frame for arm in section.arms for frame in arm.scores[rule, metric].values()]
        measures.append(
            {
                "rule": rule,
                "metric": metric,
                "unit": METRICS[metric].unit,
                "rows": [
                    {
                        "name": arm.name,
                        "runs": len(arm.about),
                        "incomplete": arm.incomplete,
                        "values": arm.values(rule, metric, classes),
                    }
                    for arm in section.arms
                ],
                "published": section.published(rule, metric),
                "differences": [
                    {
                        "name": pair.name,
                        "selfreg": pair.selfreg.name,
                        "stock": pair.stock.name,
                        "runs": pair.runs,
                        "incomplete": _shortcomings(pair),
                        "classes": pair.differences(rule, metric, classes),
                    }
                    for pair in section.pairs
                ],
                "not_counted": int(sum(frame.isna().to_numpy().sum() for frame in frames)),
            }
        )
    content = {
        "benchmark": section.benchmark,
        "title": BENCHMARKS[section.benchmark].title,
        "protocol": section.protocol,
        "arms": arms,
        "measures": measures,
        "elsewhere": section.elsewhere(),
    }
    return Summary(section, _without_nan(content))


def _shortcomings(pair: Pair) -> list[str]:
    """Everything for which a difference must be read with care."""
    lines = list(dict.fromkeys(pair.selfreg.incomplete + pair.stock.incomplete))
    mine, its = (_epochs(arm.about.values()) for arm in (pair.selfreg, pair.stock))
    if mine != its:
        lines.append(f"epochs differ: {', '.join(mine)} with SelfReg, {', '.join(its)} without")
    if not len(pair.runs) == len(pair.selfreg.about) == len(pair.stock.about):
        lines.append(f"compared on {', '.join(pair.runs)} alone")
    return lines


def _without_nan(content: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and isnan(content) else content


def _csv(sections: Sequence[Summary]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = "benchmark protocol rule metric unit kind name class value sd runs low high p better worse cases".split()
    writer.writerow([*head, "incomplete", "source", "caveat"])
    for summary in sections:
        for part in summary.content["measures"]:
            start = [summary.section.benchmark, summary.section.protocol, part["rule"], part["metric"], part["unit"]]
            for row in part["rows"]:
                marks = "; ".join(row["incomplete"])
                for name, value in row["values"].items():
                    line = [*start, "scored", row["name"], name, value["mean"], value["sd"], row["runs"]]
                    writer.writerow([*line, *[""] * 6, marks, "", ""])
            for row in part["published"]:
                for name, value in row["values"].items():
                    line = [*start, "published", row["method"], name, value]
                    writer.writerow([*line, *[""] * 9, row["source"], row["caveat"]])
            for pair in part["differences"]:
                marks = "; ".join(pair["incomplete"])
                for name, value in pair["classes"].items():
                    line = [*start, "difference", pair["name"], name, value["mean"], ""]
                    line += [len(pair["runs"]), *(value[key] for key in "low high p better worse cases".split())]
                    writer.writerow([*line, marks, "", ""])
    return text.getvalue()


def _made_of(arm: dict[str, Any]) -> str:
    """Plans, folds, epochs, versions and settings of one row."""
    runs = list(arm["runs"].values())
    trained = [item for run in runs for item in run["epochs"].items()]
    versions = {f"{name} {value}" for run in runs for name, value in run["versions"].items()}
    marks = "; ".join(arm["incomplete"])
    settings = next((run["selfreg"] for run in runs if run.get("selfreg")), None)
    parts = [
        f"trainer {arm['trainer']}",
        f"plans {arm['plans']}" if arm["plans"] else "",
        f"configuration {arm['configuration']}" if arm["configuration"] else "",
        f"data set {runs[0]['dataset']}" if "dataset" in runs[0] else "",
        f"runs {', '.join(arm['runs'])}",
        f"folds {', '.join(sorted({fold for fold, _ in trained}))}" if trained else "",
        f"epochs {', '.join(_epochs(runs)) or 'unknown'}",
        f"SelfReg {', '.join(f'{key} {value}' for key, value in settings.items() if value is not None)}"
        if settings
        else "",
        f"{runs[0]['cases']} cases of {runs[0]['clusters']} {BENCHMARKS[runs[0]['benchmark']].unit}",
        ", ".join(sorted(versions)),
        f"{DAGGER} {marks}" if marks else "",
    ]
    return f"{_marked(arm['name'], arm['incomplete'])}: {'; '.join(filter(None, parts))}."


def _missing(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which cases of the test set are missing, once for all rows that lack the same."""
    rows: dict[str, list[str]] = {}
    for arm in arms:
        lists = [run["missing"].get(part, []) for run in arm["runs"].values() for part in ("test", "predictions")]
        if names := dict.fromkeys(name for names in lists for name in names):
            rows.setdefault(", ".join(names), []).append(arm["name"])
    return [f"Missing in the test set: {names} ({'; '.join(which)})." for names, which in rows.items()]


def _epochs(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    counts = {count for run in runs for count in run["epochs"].values()}
    return [str(count) for count in sorted(filter(None, counts))] + ["unknown"] * (None in counts)


def _marked(name: str, incomplete: Sequence[str]) -> str:
    return f"{name} {DAGGER}" if incomplete else name


def _cell(value: dict[str, float | None]) -> str:
    return _number(value["mean"]) + (f" ± {value['sd']:.2f}" if value["sd"] is not None else "")


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _difference(value: dict[str, Any]) -> list[str]:
    interval = "-" if value["low"] is None else f"{value['low']:+.2f} to {value['high']:+.2f}"
    p = "-" if value["p"] is None else "< 0.001" if value["p"] < 0.001 else f"{value['p']:.3f}"
    return [_number(value["mean"], "+.2f"), interval, p, *(str(value[key]) for key in ("better", "worse", "cases"))]
