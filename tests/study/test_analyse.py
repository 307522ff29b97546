"""The study's analysis on raw results whose numbers are known by hand, and the rebuild of the committed ones."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "study"))

from analyse import AGAIN, PAPER, drawn_from, main, rebuild
from evidence import KEY, rounded
from reading import read_datasets, read_table

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "examples" / "study"
LAMBDAS = {"stock": (0, 0), "selfreg": (0.015, 0.015), "scr": (0.015, 0), "ifd": (0, 0.015)}
MARKERS = "# Page\n\n" + "\n".join(
    f"<!-- tables.md: {name} -->\n<!-- end -->"
    for name in ("overview", "summary", "hippocampus", "acdc", "acdc_10", "last_epochs", "cost")
)


class Raw:
    """Raw results in a folder, run by run."""

    def __init__(self, folder: Path) -> None:
        self.results, self.documentation = folder / "results", folder / "documentation"
        self.scores, self.curves, self.runs = [], [], []

    def add(self, dataset, arm, repetition, fold, scores, seconds=100.0, epochs=2, registered="yes", network="n"):
        """Adds a run with its scores: by case, the Dice of each class, 0 to 1, or None."""
        run = dict(zip(KEY, (dataset, arm, repetition, fold), strict=True))
        for case, by_class in scores.items():
            for name, dice in by_class.items():
                cluster = case.split("_")[0]
                self.scores.append({**run, "case": case, "cluster": cluster, "class": name, "dice": dice})
        weight = float(arm.removeprefix("selfreg_")) if arm.startswith("selfreg_") else None
        scr, ifd = LAMBDAS[arm] if weight is None else (weight, weight)
        self.runs.append(
            {**run, "trainer": "trainer", "plans": "plans", "lambda_scr": scr, "lambda_ifd": ifd, "epochs": epochs}
            | {"iterations": 50, "training_cases": 160, "seconds": seconds, "registered": registered}
            | {"network": network, "started": "2026-01-01T00:00:00+00:00"}
        )
        for epoch in range(epochs):
            dice = 0.9 * (1 - np.exp(-(epoch + 1) / 8)) + 0.01 * np.sin(epoch * (1 + fold + 5 * repetition) + len(arm))
            loss = {"train_loss": -dice, "val_loss": -dice, "pseudo_dice": dice}
            terms = {"scr": 0.7, "ifd": 1.3, "share": 0.2 / (epoch + 1) + 0.002 * fold}
            if arm == "stock":
                terms = dict.fromkeys(terms)
            self.curves.append({**run, "epoch": epoch, **loss, **terms})

    def write(self, page=MARKERS):
        self.results.mkdir(parents=True, exist_ok=True)
        self.documentation.mkdir(exist_ok=True)
        (self.documentation / "evidence.md").write_text(page)
        for name in ("scores", "curves", "runs"):
            pd.DataFrame(getattr(self, name)).to_csv(self.results / f"{name}.csv", index=False)

    def rebuilt(self, page=MARKERS):
        self.write(page)
        files = rebuild(self.results, self.documentation)
        return {path.name: text for path, text in files.items()}

    def numbers(self, dataset="hippocampus"):
        self.write()
        datasets = read_datasets(*(read_table(self.results, name) for name in ("scores", "curves", "runs")))
        return rounded(next(part for part in datasets if part.name == dataset).summary())


@pytest.fixture
def raw(tmp_path):
    return Raw(tmp_path)


def realistic(raw, epochs=10):
    """Three data sets of the size of the real ones: 200 cases, 160 of 80 patients, and the same in folds 5 to 9."""
    rng = np.random.default_rng(0)
    cases = {"hippocampus": [f"h{number:03}" for number in range(200)]}
    cases["acdc"] = cases["acdc_10"] = [f"patient{number // 2:03}_{number % 2}" for number in range(160)]
    for dataset, names in cases.items():
        classes = ["anterior", "posterior"] if dataset == "hippocampus" else ["RV", "Myo", "LV"]
        difficulty = rng.beta(12, 2, (len(names), len(classes)))
        runs = [(arm, 0, fold) for arm in ("stock", "selfreg") for fold in range(5)]
        if dataset == "hippocampus":
            runs += [(arm, 1, fold) for arm, _, fold in runs]
            runs += [(arm, 0, fold) for arm in ("scr", "ifd", "selfreg_0.1", "selfreg_1.0") for fold in range(2)]
        for arm, repetition, fold in runs:
            gain = {"stock": 0, "selfreg_1.0": -0.02, "selfreg_0.1": -0.002}.get(arm, 0.003) + rng.normal(0, 0.004)
            dice = np.clip(difficulty + gain + rng.normal(0, 0.02, difficulty.shape), 0, 1).round(6)
            scores = {
                case: dict(zip(classes, dice[number], strict=True))
                for number, case in enumerate(names)
                if number // 2 % 5 == fold
            }
            seconds = rng.normal(300 if arm == "stock" else 330, 10)
            raw.add(dataset, arm, repetition, fold + 5 * (dataset == "acdc_10"), scores, seconds, epochs)


def six(gain=(0,) * 6, start=0.8):
    return {f"c{number}": {"a": start + gain[number], "b": start - 0.2 + gain[number]} for number in range(6)}


def test_difference_of_known_size(raw):
    raw.add("hippocampus", "stock", 0, 0, six())
    raw.add("hippocampus", "selfreg", 0, 0, six([0.005, 0.015, 0.02, 0.025, 0.03, 0.085]))
    found = raw.numbers()
    (primary,) = found["comparisons"]
    assert (primary["name"], primary["role"]) == ("selfreg - stock", "primary")
    for name in ("mean", "a", "b"):
        difference = primary["classes"][name]
        assert difference["mean"] == pytest.approx(3)  # 18 points over 6 cases
        assert difference["p"] == pytest.approx(2 / 2**6)  # all six above zero
        assert (difference["better"], difference["worse"]) == (5, 0)
        assert (difference["cases"], difference["clusters"]) == (6, 6)
        assert 0.5 < difference["low"] < 3 < difference["high"] < 8.5
    dice = found["arms"]["stock"]["dice"]
    assert [dice[name]["mean"] for name in ("mean", "a", "b")] == pytest.approx([70, 80, 60])
    assert found["arms"]["selfreg"]["dice"]["mean"]["mean"] == pytest.approx(73)


def test_clusters_are_resampled_whole(raw):
    """Six cases of two patients: a sample holds one of them twice, or both."""
    cases = {f"p{number // 3}_{number}": {"a": 0.5} for number in range(6)}
    better = {case: {"a": 0.51 if case.startswith("p0") else 0.53} for case in cases}
    raw.add("acdc", "stock", 0, 0, cases)
    raw.add("acdc", "selfreg", 0, 0, better)
    difference = raw.numbers("acdc")["comparisons"][0]["classes"]["mean"]
    assert (difference["cases"], difference["clusters"]) == (6, 2)
    assert (difference["low"], difference["mean"], difference["high"]) == pytest.approx((1, 2, 3))


@pytest.mark.longer
def test_fewer_folds_in_an_arm(raw):
    """Arms are compared on the runs that both have: stock's other fold and repetition count in its own row alone."""
    far = {f"d{number}": {"a": 0.1, "b": 0.1} for number in range(6)}
    for repetition in (0, 1):
        raw.add("hippocampus", "stock", repetition, 0, six(start=0.8 + 0.04 * repetition))
        raw.add("hippocampus", "stock", repetition, 1, far)
    raw.add("hippocampus", "selfreg", 0, 0, six([0.02] * 6))
    raw.add("hippocampus", "selfreg", 0, 1, far)
    raw.add("hippocampus", "scr", 0, 0, six([0.01] * 6))
    raw.add("hippocampus", "selfreg_0.1", 0, 0, six([-0.03] * 6))
    found = raw.numbers()
    by_name = {about["name"]: about for about in found["comparisons"]}
    assert list(by_name) == ["selfreg - stock", "scr - stock", "selfreg_0.1 - stock"]
    assert [len(about["runs"]) for about in by_name.values()] == [2, 1, 1]
    assert [about["role"] for about in by_name.values()] == ["primary", "exploratory", "exploratory"]
    means = [about["classes"]["mean"]["mean"] for about in by_name.values()]
    assert means == pytest.approx([1, 1, -3])  # of 12, 6 and 6 cases
    assert found["arms"]["stock"]["dice"]["mean"]["mean"] == pytest.approx((72 + 10) / 2)
    response = found["response"]
    assert response["runs"] == [[0, 0]]
    assert {arm: about["lambda_scr"] for arm, about in response["arms"].items()} == {
        "selfreg": 0.015, "scr": 0.015, "selfreg_0.1": 0.1,
    }  # fmt: skip
    assert [about["mean"] for about in response["arms"].values()] == pytest.approx([2, 1, -3])
    assert [about["each_run"] for about in response["arms"].values()] == [[2], [1], [-3]]


@pytest.mark.longer
def test_spread_over_folds_and_repetitions(raw):
    """Means of the runs: fold 0 70 and 74, fold 1 80 and 80; SelfReg 1 and 3 points above, then 0 and 2."""
    for repetition, starts in enumerate([(0.8, 0.9), (0.84, 0.9)]):
        for fold, start in enumerate(starts):
            other = {f"f{fold}{case}": dice for case, dice in six(start=start).items()}
            gain = [(0.01, 0.03), (0.0, 0.02)][fold][repetition]
            more = {case: {name: value + gain for name, value in dice.items()} for case, dice in other.items()}
            raw.add("hippocampus", "stock", repetition, fold, other)
            raw.add("hippocampus", "selfreg", repetition, fold, more)
    found = raw.numbers()
    stock = found["arms"]["stock"]["dice"]["mean"]
    assert stock["mean"] == pytest.approx(76)
    assert stock["sd_folds"] == pytest.approx(8 / np.sqrt(2), rel=1e-5)  # 72 and 80
    assert stock["sd_repetitions"] == pytest.approx(2 / np.sqrt(2), rel=1e-5)  # 75 and 77
    (primary,) = found["comparisons"]
    assert primary["over_folds"]["mean"]["folds"] == pytest.approx({"0": 2, "1": 1})
    assert primary["over_folds"]["mean"]["mean"] == pytest.approx(1.5)
    assert primary["over_folds"]["mean"]["sd"] == pytest.approx(1 / np.sqrt(2), rel=1e-5)
    assert [run["difference"]["mean"] for run in primary["runs"]] == pytest.approx([1, 0, 3, 2])
    overview, summary = raw.rebuilt()["tables.md"].split("## ")[1:3]
    assert "| Hippocampus, 2d | 4 | 76.00 | +1.50 | -4.85 to +7.85 |" in overview
    assert "| +2.00 ± 2.83 | - |" in overview
    assert "| hippocampus | 4 | 12 | 76.00 | 77.50 | +1.50 |" in summary
    assert "| -4.85 to +7.85 | +1.50 ± 0.71 | +2.00 ± 2.83 |" in summary  # folds 2 and 1, t = 12.706; 4 and 0
    text = raw.rebuilt()["tables.md"]
    assert "| selfreg | 0 | 71.00 | 80.00 |\n| selfreg | 1 | 77.00 | 82.00 |" in text
    (noise,) = found["noise"]
    assert noise["name"] == "stock - stock, repetition 1 - 0"
    assert noise["classes"]["mean"]["mean"] == pytest.approx(2)
    assert (noise["classes"]["mean"]["better"], noise["classes"]["mean"]["worse"]) == (6, 0)
    assert noise["over_folds"]["mean"]["folds"] == pytest.approx({"0": 4, "1": 0})


def test_runs_that_were_added_later_do_not_enter_the_primary_comparison(raw):
    for repetition, gain in enumerate((0.02, -0.04)):
        registered = ("yes", "no")[repetition]
        raw.add("acdc", "stock", repetition, 0, six(), registered=registered)
        raw.add("acdc", "selfreg", repetition, 0, six([gain] * 6), registered=registered)
    raw.add("acdc", "scr", 0, 0, six([0.05] * 6), registered="no")
    compared = raw.numbers("acdc")["comparisons"]
    assert [(about["name"], about["role"], about["classes"]["mean"]["mean"]) for about in compared] == [
        ("selfreg - stock", "primary", pytest.approx(2)),
        ("selfreg - stock, added later", "replication", pytest.approx(-4)),
        ("selfreg - stock, all", "exploratory", pytest.approx(-1)),
        ("scr - stock", "exploratory", pytest.approx(5)),
    ]
    text = raw.rebuilt()["tables.md"]
    assert "| acdc | 1 | 6 | 70.00 | 72.00 | +2.00 |" in text
    assert "| ACDC, 2d | 1 | 70.00 | +2.00 |" in text
    assert "| ACDC, 2d; with the runs added later | 2 | 70.00 | -1.00 |" in text


def test_repetitions_are_compared_on_the_folds_that_all_have(raw):
    for repetition in (0, 1):
        raw.add("hippocampus", "stock", repetition, 0, six(start=0.8 + 0.02 * repetition))
    raw.add("hippocampus", "stock", 0, 1, {f"d{number}": {"a": 0.1, "b": 0.1} for number in range(6)})
    assert raw.numbers()["arms"]["stock"]["dice"]["mean"]["sd_repetitions"] == pytest.approx(2 / np.sqrt(2), rel=1e-5)


def test_dice_that_is_not_counted(raw):
    """A class absent from reference and prediction leaves its mean, and the case's difference comes from the other."""
    raw.add("hippocampus", "stock", 0, 0, {"c0": {"a": 0.8, "b": None}, "c1": {"a": 0.6, "b": 0.5}})
    raw.add("hippocampus", "selfreg", 0, 0, {"c0": {"a": 0.84, "b": None}, "c1": {"a": 0.62, "b": 0.49}})
    found = raw.numbers()
    assert found["arms"]["stock"]["dice"]["mean"]["mean"] == pytest.approx((70 + 50) / 2)
    assert found["arms"]["stock"]["dice"]["b"]["mean"] == pytest.approx(50)
    classes = found["comparisons"][0]["classes"]
    assert classes["mean"]["mean"] == pytest.approx((3 - 1) / 2)
    assert (classes["mean"]["better"], classes["mean"]["cases"]) == (1, 2)
    assert (classes["b"]["mean"], classes["b"]["cases"], classes["b"]["low"]) == (pytest.approx(-1), 1, None)


def test_one_repetition_and_one_fold(raw):
    raw.add("hippocampus", "stock", 0, 0, six())
    raw.add("hippocampus", "selfreg", 0, 0, six([0.02] * 6))
    found = raw.numbers()
    assert found["arms"]["stock"]["dice"]["mean"] == {
        "mean": pytest.approx(70), "sd_folds": None, "sd_repetitions": None,
    }  # fmt: skip
    assert found["noise"] == []
    assert found["response"] is None
    assert found["comparisons"][0]["over_folds"]["mean"]["sd"] is None
    files = raw.rebuilt()
    assert "| stock | mean | 1 | 70.00 | - | - |" in files["tables.md"]
    assert json.loads(files["tables.json"])["datasets"]["hippocampus"] == found
    plots = {"overview.svg", "differences.svg", "learning_curves.svg"}
    assert set(files) == {"tables.json", "tables.md", "evidence.md", *plots}


def test_cost(raw):
    for fold, seconds in enumerate([(100, 110), (200, 260), (300, 300)]):
        cases = {f"f{fold}{case}": dice for case, dice in six().items()}
        for arm, its in zip(("stock", "selfreg"), seconds, strict=True):
            raw.add("hippocampus", arm, 0, fold, cases, its)
    assert "| hippocampus | stock | 3 | 160 | 2 | 50 | 200 (100 to 300) | 0.2 |  |" in raw.rebuilt()["tables.md"]
    row = "| hippocampus | selfreg | 3 | 160 | 2 | 50 | 260 (110 to 300) | 0.2 | 1.10 (1.00 to 1.30) |"
    assert row in raw.rebuilt()["tables.md"]
    assert "| all |  | 6 |  |  |  |  | 0.4 |  |" in raw.rebuilt()["tables.md"]  # 1270 s


def test_last_epochs(raw):
    for fold in (0, 1):
        raw.add("hippocampus", "stock", 0, fold, {f"f{fold}{case}": dice for case, dice in six().items()})
        raw.add("hippocampus", "selfreg", 0, fold, {f"f{fold}{case}": dice for case, dice in six().items()})
    for row in raw.curves:
        row["train_loss"] = row["val_loss"] = -0.5
        row["pseudo_dice"] = (0.6, 0.7)[row["epoch"]] + (0.05 * row["epoch"] if row["fold"] else 0)
        if row["arm"] == "selfreg":
            row |= {"scr": 4.0, "ifd": 2.0}
    text = raw.rebuilt()["tables.md"]
    assert "| hippocampus | stock | 2 | 72.50 | +12.50 | -0.500 | -0.500 |" in text
    assert "| hippocampus | selfreg | 2 | 72.50 | +12.50 | -0.590 | -0.500 |" in text  # 0.015 * (4 + 2) less


def test_page_is_filled_between_its_markers(raw):
    raw.add("hippocampus", "stock", 0, 0, six())
    raw.add("hippocampus", "selfreg", 0, 0, six([0.02] * 6))
    stale = MARKERS.replace("acdc -->\n", "acdc -->\nstale\n")
    files = raw.rebuilt(stale)
    page = files["evidence.md"]
    section = re.search(r"## hippocampus\n\n(.*?)\n## last_epochs", files["tables.md"], re.DOTALL)[1]
    assert f"<!-- tables.md: hippocampus -->\n{section}<!-- end -->" in page
    assert "| selfreg - stock | primary | mean | 1 | +2.00 | +2.00 to +2.00 |" in page
    assert "| selfreg - stock | exploratory | a | 1 | +2.00 |" in page
    assert "<!-- tables.md: acdc -->\n<!-- end -->" in page
    assert raw.rebuilt("# No place for a table")["evidence.md"] == "# No place for a table"
    assert raw.rebuilt(page)["evidence.md"] == page


def test_check_names_what_would_change(raw, capsys):
    raw.add("hippocampus", "stock", 0, 0, six())
    raw.add("hippocampus", "selfreg", 0, 0, six([0.02] * 6))
    raw.write()
    folders = ["--results", str(raw.results), "--documentation", str(raw.documentation)]
    before = sorted(raw.results.iterdir())
    with pytest.raises(SystemExit, match=r"tables\.md would change"):
        main([*folders, "--check"])
    assert sorted(raw.results.iterdir()) == before
    main(folders)
    main([*folders, "--check"])
    table = raw.results / "tables.md"
    table.write_text(table.read_text().replace("+2.00", "+2.10"))
    with pytest.raises(SystemExit) as stopped:
        main([*folders, "--check"])
    assert stopped.value.code == f"{table} would change"


def test_a_plot_tells_what_it_was_drawn_from(raw):
    """Other drawing of the same numbers is no change, other numbers are."""
    raw.add("hippocampus", "stock", 0, 0, six())
    raw.add("hippocampus", "selfreg", 0, 0, six([0.02] * 6))
    raw.write()
    folders = ["--results", str(raw.results), "--documentation", str(raw.documentation)]
    main(folders)
    plot = raw.documentation / "pictures" / "evidence" / "differences.svg"
    plot.write_text(plot.read_text().replace("<path", "<path "))
    main([*folders, "--check"])
    raw.scores[0]["dice"] = 0.81
    raw.write()
    with pytest.raises(SystemExit, match=r"differences\.svg would change"):
        main([*folders, "--check"])


@pytest.mark.longer
def test_rebuild_does_not_depend_on_the_process(raw):
    realistic(raw, epochs=3)
    raw.write()
    files = {path: text.encode() for path, text in rebuild(raw.results, raw.documentation).items()}
    assert len(files) == 7
    command = [sys.executable, STUDY / "analyse.py", "--results", raw.results, "--documentation", raw.documentation]
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT), "MPLBACKEND": "svg"}
    subprocess.run(command, check=True, env=environment, cwd=raw.results)
    assert {path: path.read_bytes() for path in files} == files


def _twice(raw):
    raw.add("hippocampus", "stock", 0, 0, six())


def _budget(raw):
    raw.add("hippocampus", "selfreg", 0, 0, six(), epochs=3)


def _other_network(raw):
    raw.add("hippocampus", "stock", 1, 0, six(), network="m")


def _other_cases(raw):
    raw.add("hippocampus", "selfreg", 0, 0, {"other": {"a": 0.5, "b": 0.5}})


def _no_stock(raw):
    raw.add("acdc", "selfreg", 0, 0, six())


def _not_described(raw):
    raw.runs[0]["fold"] = 3


def _no_curve(raw):
    raw.add("hippocampus", "stock", 1, 0, six())
    raw.curves = [row for row in raw.curves if row["repetition"] == 0]


def _not_a_number(raw):
    raw.scores[0]["dice"] = "good"


@pytest.mark.parametrize(
    ("break_it", "line"),
    [
        (_twice, "scores.csv holds a score twice: dataset hippocampus, arm stock, repetition 0, fold 0, case c0"),
        (_budget, "hippocampus, repetition 0, fold 0: selfreg has epochs 3, stock 2"),
        (
            _other_network,
            "hippocampus holds runs with network m and n; give other networks and lengths",
        ),
        (_other_cases, "hippocampus, repetition 0, fold 0: stock lacks other, which selfreg has"),
        (_no_stock, "scores.csv has no stock arm of acdc"),
        (_not_described, "scores.csv lacks the run dataset hippocampus, arm stock, repetition 0, fold 3"),
        (_no_curve, "curves.csv lacks the run dataset hippocampus, arm stock, repetition 1, fold 0"),
        (_not_a_number, "scores.csv cannot be read"),
    ],
)
def test_refusals_are_one_line(raw, break_it, line):
    raw.add("hippocampus", "stock", 0, 0, six())
    break_it(raw)
    raw.write()
    with pytest.raises(SystemExit) as stopped:
        main(["--results", str(raw.results), "--documentation", str(raw.documentation)])
    assert line in stopped.value.code
    assert "\n" not in stopped.value.code
    assert len(list(raw.results.iterdir())) == 3


def test_without_results_the_workflow_is_named(raw):
    with pytest.raises(SystemExit, match=r"scores\.csv does not exist; run the study's workflow first"):
        main(["--results", str(raw.results)])


def flat(content, place=""):
    """Every number and word of a JSON file by its place."""
    if isinstance(content, dict):
        content = list(content.items())
    elif isinstance(content, list):
        content = list(enumerate(content))
    else:
        return {place: content}
    return {key: value for name, part in content for key, value in flat(part, f"{place}/{name}").items()}


def test_committed_results_are_what_the_raw_results_give():
    """Numbers as numbers, to the last of the six digits that are kept; tables, which show fewer, as text."""
    files = rebuild(STUDY / "results", ROOT / "documentation", PAPER, AGAIN)
    assert {path.suffix for path in files} == {".json", ".md", ".svg"}
    for path, text in files.items():
        if path.suffix == ".json":
            now, committed = flat(json.loads(text)), flat(json.loads(path.read_text()))
            assert list(now) == list(committed)
            for place, value in committed.items():
                is_number = isinstance(value, (int, float))
                assert now[place] == (pytest.approx(value, rel=2e-6) if is_number else value), place
        elif path.suffix == ".md":
            assert text == path.read_text()
        else:
            assert drawn_from(text) == drawn_from(path.read_text())
            assert len(drawn_from(text)) == 1
