"""The rows of the paper's benchmarks: what the documents print is what the committed scores give."""

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


def test_the_readme_rounds_them_as_the_table_does():
    page = (ROOT / "documentation" / "leaderboard.md").read_text()
    for readme in (ROOT / "README.md", RESULTS / "README.md"):
        (line,) = (line for line in readme.read_text().splitlines() if "+0.09" in line)
        assert "-0.32 to +0.54" in page
        assert "-0.32 to +0.54" in line
