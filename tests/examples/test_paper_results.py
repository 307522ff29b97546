"""The rows of the paper's benchmarks: what the documents print is what the committed scores give."""

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "study"))

from overview import of_paper

from nnunetv2_selfreg.benchmarks.registry import PROTOCOLS
from nnunetv2_selfreg.cli import main
from nnunetv2_selfreg.comparison import MEAN

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "examples" / "leaderboard" / "results" / "paper"
AGAIN, HALF = (RESULTS.with_name(name) for name in ("paper_again", "paper_half"))
ARMS = "nnUNetTrainer", "nnUNetTrainerSelfReg"


@pytest.mark.parametrize(("results", "count"), [(RESULTS, 25), (AGAIN, 14), (HALF, 7)])
def test_the_printed_rows_are_those_of_the_committed_scores(results, count, tmp_path):
    assert main(["leaderboard", "table", str(results), "-o", str(tmp_path)]) == 0
    table = (tmp_path / "table.md").read_text().splitlines()
    page = (ROOT / "documentation" / "leaderboard.md").read_text()
    printed = page.partition(f"leaderboard/results/{results.name}` -->")[2].partition("<!-- end")[0].splitlines()
    rows = [line for line in printed if line.startswith("|") and not line.startswith("| ---")]
    assert len(rows) == count
    assert [row for row in rows if row not in table] == []


def arm(text, name):
    """Runs and mean of a trainer's first row."""
    return re.findall(rf"^\| {name}\\_4000steps, .* \| (\d) \| ([\d.]+) ± ", text, re.MULTILINE)[0]


def difference_of(text, name):
    """Of its first row: the difference, the interval over images and that over folds."""
    pattern = rf"^\| {name}\\_4000steps - .* \| mean \| (\S+) \| (\S+ to \S+) \| .* \| (\S+ to \S+) \|"
    return re.findall(pattern, text, re.MULTILINE)[0]


@pytest.mark.parametrize(("name", "images"), [("GlaS", 80), ("MoNuSeg", 14)])
def test_other_pages_print_the_same_numbers(name, images):
    page = (ROOT / "documentation" / "leaderboard.md").read_text()
    part = page.partition(f"### {name}\n")[2]
    (runs, stock), (_, selfreg) = arm(part, "nnUNetTrainer"), arm(part, "nnUNetTrainerSelfReg")
    assert runs == "5"
    difference, interval, over_folds = difference_of(part, "nnUNetTrainerSelfReg")
    (row,) = (
        line
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith(f"| {name}, {images} test images")
    )
    assert [cell.strip() for cell in row.split("|")][2:5] == [stock, difference, over_folds]
    text = (RESULTS / "README.md").read_text()
    assert f"| {name}, {images} images, Dice | {stock} | {selfreg} | {difference} | {over_folds} | {interval} |" in text
    assert f"| {name} at 224 x 224, Dice | " in page
    assert f"| [{selfreg}](#the-papers-benchmarks-run-here) ({stock}), " in page


def test_the_page_says_what_the_rows_say():
    page = " ".join((ROOT / "documentation" / "leaderboard.md").read_text().split())
    published = {
        name: {row.method: row.values[MEAN] for row in PROTOCOLS[name].published if row.metric == "dice"}
        for name in ("glas224", "monuseg224")
    }
    means = {row["name"]: row for row in of_paper(RESULTS)}
    glas, monuseg = (means[f"{name} at 224 x 224, 2d; test images"] for name in ("GlaS", "MoNuSeg"))
    assert glas["stock"] - published["glas224"]["U-Net"] > 4
    assert f"nnU-Net by {glas['stock'] - published['glas224']['U-Net']:.1f}, so less is left to gain" in page
    assert monuseg["stock"] - published["monuseg224"]["U-Net"] > 2
    assert f"{monuseg['difference']:.2f} points by SelfReg, four of five folds higher" in page
    assert sum(each > 0 for each in monuseg["each_run"]) == 4
    assert monuseg["over_folds"]["low"] < 0 < monuseg["difference"]
    assert 0 < published["monuseg224"]["SelfReg-UNet"] - monuseg["stock"] - monuseg["difference"] < 1
    for name, row in (("monuseg224", monuseg), ("glas224", glas)):
        gain = published[name]["SelfReg-UNet"] - published[name]["U-Net"]
        assert row["reported"] == pytest.approx(gain)
        assert f"the paper has {gain:.2f} points over its U-Net" in page.replace("The paper", "the paper")


def test_the_fresh_trainings_are_printed_as_scored():
    page = " ".join((ROOT / "documentation" / "leaderboard.md").read_text().split())
    table = (AGAIN / "table" / "table.md").read_text()
    (runs, stock), (_, selfreg) = arm(table, "nnUNetTrainer"), arm(table, "nnUNetTrainerSelfReg")
    difference, interval, over_folds = difference_of(table, "nnUNetTrainerSelfReg")
    assert runs == "5"
    assert float(over_folds.split()[0]) < 0 < float(over_folds.split()[2])
    assert f"They gave {difference[1:]} points, {over_folds}: no gain is shown" in page
    rows = {
        row["name"].partition("; ")[2]: row for row in of_paper(RESULTS, AGAIN) if row["name"].startswith("MoNuSeg")
    }
    both, (noise,) = rows["with the fresh trainings, test images"], rows["test images"]["noise"]
    ends = f"{both['over_folds']['low']:+.2f} to {both['over_folds']['high']:+.2f}"
    assert f"Both repetitions together give {both['difference']:.2f}, {ends}" in page
    assert f"differs from the first by up to {max(map(abs, noise['each_run'])):.2f} points in a fold" in page
    row = f"| MoNuSeg, 14 images, Dice | {stock} | {selfreg} | {difference} | {over_folds} | {interval} |"
    assert row in (AGAIN / "README.md").read_text()
    row = f"| MoNuSeg, five fresh trainings of each, to test that | {stock} | {difference} | {over_folds} |"
    assert row in (ROOT / "README.md").read_text()
    part = table.partition("## MoNuSeg, ensemble of folds")[2]
    one, other = (
        re.findall(rf"^\| {name}\\_4000steps, .* \| 1 \| ([\d.]+) \|", part, re.MULTILINE)[0] for name in ARMS
    )
    assert f"of the five fresh networks: {one} (stock) and {other} (SelfReg)" in page
    assert f"did not confirm it: {stock} and {selfreg}." in " ".join((ROOT / "CHANGELOG.md").read_text().split())


def means_of_folds(folder, trainer, plans, folds):
    """Of the files of these folds, in percent."""
    scores = pd.concat(
        pd.read_csv(next(folder.glob(f"monuseg224__*__{trainer}_4000steps__{plans}__2d__{fold}.csv"))) for fold in folds
    )
    return 100 * scores[(scores["rule"] == "published") & (scores["metric"] == "dice")]["value"].mean()


def test_the_wider_network_is_printed_as_scored():
    page = " ".join((ROOT / "documentation" / "leaderboard.md").read_text().split())
    table = (HALF / "table" / "table.md").read_text()
    (runs, stock), (_, selfreg) = arm(table, "nnUNetTrainer"), arm(table, "nnUNetTrainerSelfReg")
    difference, interval, over_folds = difference_of(table, "nnUNetTrainerSelfReg")
    assert runs == "2"
    assert f"**MoNuSeg, twice as wide**, two of five folds: {stock} (stock) and {selfreg} (SelfReg)" in page
    small = [means_of_folds(folder, name, "QuarterWidth", (0, 1)) for name in ARMS for folder in (RESULTS, AGAIN)]
    said = "two repetitions have {:.2f} and {:.2f} (stock), {:.2f} and {:.2f} (SelfReg)".format(*small)
    assert said in page
    assert max(float(stock), float(selfreg)) < 80.18
    row = f"| MoNuSeg, 14 images, Dice | {stock} | {selfreg} | {difference} | {over_folds} | {interval} |"
    assert row in (HALF / "README.md").read_text()
    assert f"{stock} (stock) and {selfreg} (SelfReg)." in (ROOT / "CHANGELOG.md").read_text()


def test_the_plain_unets_are_printed_as_scored():
    table = (RESULTS / "table" / "table.md").read_text()
    (runs, stock), (_, selfreg) = arm(table, "nnUNetTrainerPlain"), arm(table, "nnUNetTrainerSelfRegPlain")
    difference, interval, over_folds = difference_of(table, "nnUNetTrainerSelfRegPlain")
    page = " ".join((ROOT / "documentation" / "leaderboard.md").read_text().split())
    assert runs == "5"
    assert f"**GlaS with a plain U-Net**, five folds: {stock} without SelfReg and {selfreg} with it" in page
    assert f"The interval over folds, {over_folds}, holds 0" in page
    assert float(over_folds.split()[0]) < 0 < float(over_folds.split()[2])
    published = next(row.values[MEAN] for row in PROTOCOLS["glas224"].published if row.method == "U-Net")
    assert f"This U-Net is {float(stock) - published:.1f} points above the paper's {published}" in page
    row = f"| GlaS with a plain U-Net, Dice | {stock} | {selfreg} | {difference} | {over_folds} | {interval} |"
    assert row in (RESULTS / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "title"), [("GlaS", "## GlaS, each fold alone"), ("MoNuSeg", "## MoNuSeg, each fold alone")]
)
def test_decorrelation_is_printed_as_scored(name, title):
    table = (RESULTS / "table" / "table.md").read_text().partition(title)[2]
    trainer = "nnUNetTrainerSelfRegDecorrelation"
    (_, stock), (runs, mean) = arm(table, "nnUNetTrainer"), arm(table, trainer)
    difference, interval, over_folds = difference_of(table, trainer)
    assert runs == "5"
    page = " ".join((ROOT / "documentation" / "leaderboard.md").read_text().split())
    assert f"five folds: {mean}, {difference.removeprefix('+')} points more than stock" in page
    assert f"The interval over folds, {over_folds}, holds 0." in page.partition(f"**{name} with decorrelation**")[2]
    assert float(over_folds.split()[0]) < 0 < float(over_folds.split()[2])
    if float(interval.split()[0]) > 0:
        assert f"That over images, {interval}, does not: a hint" in page
    row = f"| {stock} | {mean} | {difference} | {over_folds} | {interval} |"
    assert f"| {name}, decorrelation in SelfReg's place, Dice {row}" in (RESULTS / "README.md").read_text()


def test_test_a_is_printed_as_scored():
    page = " ".join((ROOT / "documentation" / "leaderboard.md").read_text().split())
    part = (RESULTS / "table" / "table.md").read_text().partition("## GlaS test A")[2]
    (_, stock), (_, selfreg) = arm(part, "nnUNetTrainer"), arm(part, "nnUNetTrainerSelfReg")
    assert f"was scored for folds 3 and 4: {stock} (stock) and {selfreg} (SelfReg)" in page
    assert f"| [{selfreg}](#the-papers-benchmarks-run-here) ({stock}), two of five folds" in page
    (runs, stock), (_, selfreg) = arm(part, "nnUNetTrainerPlain"), arm(part, "nnUNetTrainerSelfRegPlain")
    assert runs == "5"
    assert f"The plain U-Nets have {stock} and {selfreg}, five folds" in page
    difference, *_ = difference_of(part, "nnUNetTrainerSelfRegDecorrelation")
    mean = arm(part, "nnUNetTrainerSelfRegDecorrelation")[1]
    said = f"Test A: {mean}; on folds 3 and 4, the two that were scored for stock, {difference} against it."
    assert said in page


def test_iou_of_monuseg_is_printed_as_scored():
    part = (RESULTS / "table" / "table.md").read_text().partition("## MoNuSeg")[2].partition("Foreground IoU")[2]
    (_, stock), (_, selfreg) = arm(part, "nnUNetTrainer"), arm(part, "nnUNetTrainerSelfReg")
    page = " ".join((ROOT / "documentation" / "leaderboard.md").read_text().split())
    assert f"| [{selfreg}](#the-papers-benchmarks-run-here) ({stock}), the same |" in page


@pytest.mark.parametrize("results", [RESULTS, AGAIN, HALF])
def test_the_committed_table_is_that_of_the_scores(results, tmp_path):
    """But for the plots, which another version of matplotlib draws otherwise."""
    assert main(["leaderboard", "table", str(results), "-o", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (results / "table").iterdir()}
    for made in tmp_path.iterdir():
        if made.suffix in (".json", ".csv"):  # more digits than all processors agree on
            continue
        one, other = (re.sub(r"base64,[^\"]*", "", path.read_text()) for path in (made, results / "table" / made.name))
        assert one == other, made.name
    one, other = (pd.read_csv(folder / "table.csv") for folder in (tmp_path, results / "table"))
    pd.testing.assert_frame_equal(one, other, rtol=2e-6)
    rows, printed = (
        [row for table in json.loads((folder / "table.json").read_text())["tables"] for row in table["rows"]]
        for folder in (tmp_path, results / "table")
    )
    assert len(rows) == len(printed) == len(one)
    for row, expected in zip(rows, printed, strict=True):
        assert row == {
            name: pytest.approx(value, rel=2e-6) if isinstance(value, float) else value
            for name, value in expected.items()
        }


def test_every_row_that_selfreg_is_listed_with_is_named():
    page = (ROOT / "documentation" / "leaderboard.md").read_text()
    rows = page.partition("| benchmark | SelfReg's listed row |")[2].partition("\n\n")[0]
    listed = {
        f"{row.values[MEAN]:.2f}"
        for protocol in PROTOCOLS.values()
        for row in protocol.published
        if row.method.startswith("SelfReg") and row.metric in ("dice", "iou", "pixel_accuracy")
    }
    assert set(re.findall(r"\b\d\d\.\d\d\b(?!\]\(#|\),)", rows)) == listed
