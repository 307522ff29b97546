"""The rows of the paper's benchmarks: what the documents print is what the committed scores give."""

import re
from pathlib import Path

from nnunetv2_selfreg.cli import main

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
    ((difference, interval),) = re.findall(r" \| mean \| (\S+) \| (\S+ to \S+) \|", page)
    (row,) = (
        line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| GlaS, 80 test images")
    )
    assert [cell.strip() for cell in row.split("|")][2:5] == [stock, difference, f"{interval}, over images"]
    text = " ".join((RESULTS / "README.md").read_text().split())
    assert f"gives Dice {stock} (stock) and {selfreg} (SelfReg)" in text
    assert f"The difference, {difference}, has a 95 % interval of {interval} over test images" in text
