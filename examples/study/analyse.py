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
from overview import forms_of_paper, of_forms, of_paper, of_study
from reading import read_datasets, read_table

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import write_text

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "examples" / "study" / "results"
PAPER = ROOT / "examples" / "leaderboard" / "results" / "paper"
AGAIN = PAPER.with_name("paper_again")


def rebuild(
    results: Path, documentation: Path, paper: Path | None = None, again: Path | None = None
) -> dict[Path, str]:
    """Everything that follows from the raw results.

    Args:
        results: The folder of `scores.csv`, `curves.csv` and `runs.csv`.
        documentation: The folder of `evidence.md`, if there is that page, and of the pictures.
        paper: What `leaderboard score` wrote of the paper's benchmarks, if they are to stand beside the study.
        again: The same of fresh trainings.

    Returns:
        The texts of the files, by path.

    Raises:
        SelfRegError: The raw results cannot be read or contradict each other.
    """
    page = documentation / "evidence.md"
    scores, curves, runs = (read_table(results, name) for name in ("scores", "curves", "runs"))
    datasets = read_datasets(scores, curves, runs)
    summaries = {part.name: part.summary() for part in datasets}
    numbers = {
        "overview": of_study(summaries) + (of_paper(paper, again) if paper else []),
        "forms": of_forms(summaries) + (forms_of_paper(paper) if paper else []),
        "datasets": summaries,
        "learning_curves": learning_curves(datasets, curves),
        "last_epochs": last_epochs(curves, runs),
        "cost": cost(runs),
    }
    content = rounded(numbers)
    parts = tables.sections(content)
    files = {results / "tables.json": json.dumps(content, indent=1) + "\n", results / "tables.md": tables.page(parts)}
    if page.is_file():
        files[page] = tables.filled(page.read_text(encoding="utf-8"), parts)
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
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--paper", type=Path, help="scored runs of the paper's benchmarks; without --results the published ones"
    )
    parser.add_argument("--again", type=Path, help="the same of fresh trainings; with --paper")
    parser.add_argument("--documentation", type=Path, default=ROOT / "documentation")
    parsed = parser.parse_args(arguments)
    try:
        if parsed.again and not parsed.paper:
            parser.error("--again: needs --paper")
        published = parsed.results == RESULTS and not parsed.paper
        paper, again = (PAPER, AGAIN) if published else (parsed.paper, parsed.again)
        files = rebuild(parsed.results, parsed.documentation, paper, again)
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
