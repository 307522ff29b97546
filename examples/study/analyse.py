"""Rebuilds every table and figure of the study, byte for byte, from the raw results.

python examples/study/analyse.py            # writes them
python examples/study/analyse.py --check    # names those that would change, and exits with 1
"""

import argparse
import json
import sys
from pathlib import Path

import figures
import tables
from comparison import cost, last_epochs, rounded
from reading import read_datasets, read_table

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.leaderboard.files import write_text

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
    summaries = {part.name: part.summary() for part in datasets}
    content = rounded({"datasets": summaries, "last_epochs": last_epochs(curves, runs), "cost": cost(runs)})
    parts = tables.sections(content)
    evidence, homeless = tables.filled(page.read_text(encoding="utf-8"), parts) if page.is_file() else (None, [])
    if homeless:
        raise SelfRegError(
            f"{page} has no place for {homeless[0]}; add the lines <!-- tables.md: {homeless[0]} --> and <!-- end -->"
        )
    pictures = {
        "differences": figures.differences(datasets, content["datasets"]),
        "learning_curves": figures.learning_curves(datasets, curves),
        "lambda_response": figures.lambda_response(content["datasets"]),
    }
    return {
        results / "tables.json": json.dumps(content, indent=1) + "\n",
        results / "tables.md": tables.page(parts),
        **({} if evidence is None else {page: evidence}),
    } | {documentation / "pictures" / "evidence" / f"{name}.svg": svg for name, svg in pictures.items() if svg}


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
    changed = [path for path, text in files.items() if not path.is_file() or path.read_bytes() != text.encode()]
    if parsed.check:
        if changed:
            sys.exit("\n".join(f"{path} would change" for path in changed))
        return
    for path in changed:
        write_text(path, files[path])
        print(path)


if __name__ == "__main__":
    main()
