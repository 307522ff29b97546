"""The rows of the paper's benchmarks: what the documents print is what the committed scores give."""

import re
from pathlib import Path

from nnunetv2_selfreg.benchmarks.registry import PROTOCOLS
from nnunetv2_selfreg.cli import main
from nnunetv2_selfreg.comparison import MEAN

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "examples" / "leaderboard" / "results" / "paper"


def test_the_printed_rows_are_those_of_the_committed_scores(tmp_path):
    assert main(["leaderboard", "table", str(RESULTS), "-o", str(tmp_path)]) == 0
    table = (tmp_path / "table.md").read_text().splitlines()
    page = (ROOT / "documentation" / "leaderboard.md").read_text()
    printed = page.partition("<!-- rows of")[2].partition("<!-- end")[0].splitlines()
    rows = [line for line in printed if line.startswith("|") and not line.startswith("| ---")]
    assert len(rows) == 11
    assert [row for row in rows if row not in table] == []


def test_other_pages_print_the_same_numbers():
    page = (ROOT / "documentation" / "leaderboard.md").read_text()
    stock, selfreg = re.findall(r"^\| nnUNetTrainer.* \| \d \| ([\d.]+) ± ", page, re.MULTILINE)
    ((difference, interval, over_folds),) = re.findall(
        r" \| mean \| (\S+) \| (\S+ to \S+) \| .* \| (\S+ to \S+) \|", page
    )
    (row,) = (
        line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| GlaS, 80 test images")
    )
    assert [cell.strip() for cell in row.split("|")][2:5] == [stock, difference, over_folds]
    text = " ".join((RESULTS / "README.md").read_text().split())
    assert f"gives Dice {stock} (stock) and {selfreg} (SelfReg)" in text
    assert (
        f"The difference, {difference}, has a 95 % interval of {over_folds} over folds, and of {interval} over" in text
    )
    assert f"| [{selfreg}](#the-papers-benchmarks-run-here) ({stock}), five folds" in page


def test_test_a_is_printed_as_scored():
    page = " ".join((ROOT / "documentation" / "leaderboard.md").read_text().split())
    part = (RESULTS / "table" / "table.md").read_text().partition("## GlaS test A")[2]
    stock, selfreg = re.findall(r"\| 2 \| ([\d.]+) ± ", part)[:2]
    assert f"was scored for folds 3 and 4: {stock} (stock) and {selfreg} (SelfReg)" in page
    assert f"| [{selfreg}](#the-papers-benchmarks-run-here) ({stock}), two of five folds" in page


def test_the_first_fold_of_monuseg_is_printed_as_scored(tmp_path):
    folder = RESULTS.parent / "monuseg224"
    assert main(["leaderboard", "table", str(folder), "-o", str(tmp_path)]) == 0
    rows = re.findall(r"^\| nnUNetTrainer.* † \| 1 \| ([\d.]+) \|", (tmp_path / "table.md").read_text(), re.MULTILINE)
    stock, selfreg, stock_iou, selfreg_iou = rows[:4]
    both = f"Dice {stock} (stock) and {selfreg} (SelfReg)"
    assert f"gives {both}, foreground IoU {stock_iou} and {selfreg_iou}" in " ".join(
        (folder / "README.md").read_text().split()
    )
    page = " ".join((ROOT / "documentation" / "leaderboard.md").read_text().split())
    assert f"{both}, IoU {stock_iou} and {selfreg_iou}" in page
    assert f"| [{selfreg}](#the-papers-benchmarks-run-here) ({stock}), one of five folds" in page
    assert f"| [{selfreg_iou}](#the-papers-benchmarks-run-here) ({stock_iou}), the same |" in page


def test_the_committed_table_is_that_of_the_scores(tmp_path):
    """But for the plots, which another version of matplotlib draws otherwise."""
    assert main(["leaderboard", "table", str(RESULTS), "-o", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (RESULTS / "table").iterdir()}
    for made in tmp_path.iterdir():
        one, other = (re.sub(r"base64,[^\"]*", "", path.read_text()) for path in (made, RESULTS / "table" / made.name))
        assert one == other, made.name


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
