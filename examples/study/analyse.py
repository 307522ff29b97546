"""Rebuilds every table and plot of the study from the raw results.

python examples/study/analyse.py            # writes them
python examples/study/analyse.py --check    # names those that would change, and exits with 1
"""

import argparse
import json
import re
import sys
from pathlib import Path

import plots
import tables
from evidence import cost, last_epochs, learning_curves, rounded
from reading import read_datasets, read_table

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import write_text

ROOT = Path(__file__).parents[2]


def rebuild(results: Path, documentation: Path) -> dict[Path, str]:
    """Everything that follows from the raw results.

    Args:
        results: The folder of `scores.csv`, `curves.csv` and `runs.csv`.
        documentation: The folder of `evidence.md`, if there is that page, and of the pictures.

    Returns:
        The texts of the files, by path.

    Raises:
        SelfRegError: The raw results cannot be read or contradict each other, or the page has no place for a table.
    """
    page = documentation / "evidence.md"
    scores, curves, runs = (read_table(results, name) for name in ("scores", "curves", "runs"))
    datasets = read_datasets(scores, curves, runs)
    numbers = {
        "datasets": {part.name: part.summary() for part in datasets},
        "learning_curves": learning_curves(datasets, curves),
        "last_epochs": last_epochs(curves, runs),
        "cost": cost(runs),
    }
    content = rounded(numbers)
    parts = tables.sections(content)
    files = {results / "tables.json": json.dumps(content, indent=1) + "\n", results / "tables.md": tables.page(parts)}
    if page.is_file():
        files[page], homeless = tables.filled(page.read_text(encoding="utf-8"), parts)
        if homeless:
            marks = f"<!-- tables.md: {homeless[0]} --> and <!-- end -->"
            raise SelfRegError(f"{page} has no place for {homeless[0]}; add the lines {marks}")
    pictures = documentation / "pictures" / "evidence"
    return files | {pictures / f"{name}.svg": svg for name, svg in plots.all_plots(content).items()}


def is_current(path: Path, text: str) -> bool:
    """Whether a file holds this text; of a plot, whether it was drawn from the same numbers."""
    if not path.is_file():
        return False
    there = path.read_text(encoding="utf-8")
    return drawn_from(there) == drawn_from(text) if path.suffix == ".svg" else there == text


def drawn_from(svg: str) -> list[str]:
    """What a plot says of the numbers that it was drawn from."""
    return re.findall(r"drawn from \w+", svg)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file would change")
    parser.add_argument("--results", type=Path, default=ROOT / "examples" / "study" / "results")
    parser.add_argument("--documentation", type=Path, default=ROOT / "documentation")
    parsed = parser.parse_args(arguments)
    try:
        files = rebuild(parsed.results, parsed.documentation)
    except SelfRegError as error:
        sys.exit(str(error))
    changed = [path for path, text in files.items() if not is_current(path, text)]
    if parsed.check:
        if changed:
            sys.exit("\n".join(f"{path} would change" for path in changed))
        return
    for path in changed:
        write_text(path, files[path])
        print(path)


if __name__ == "__main__":
    main()
