"""The page on cost says what the committed measurements say."""

import subprocess
import sys
from pathlib import Path

COST = Path(__file__).parents[2] / "examples" / "cost"


def test_the_pages_tables_are_made_of_the_committed_files():
    files = sorted((COST / "results").glob("co*.json"))
    assert len(files) >= 4
    command = [sys.executable, str(COST / "cost_tables.py"), *map(str, files)]
    tables = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert tables in (COST / "README.md").read_text()
    rows = [line for line in (COST / "README.md").read_text().splitlines() if line.startswith("|")]
    assert [row for row in rows if row in tables] == [line for line in tables.splitlines() if line.startswith("|")]
    assert len([line for line in tables.splitlines() if line.startswith("| ") and "---" not in line]) >= 8
