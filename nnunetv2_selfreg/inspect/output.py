"""The report's folder: what may be replaced, and how."""

import json
import os
from pathlib import Path

from nnunetv2_selfreg.errors import SelfRegError

PAGE, NUMBERS, PICTURES = "report.html", "figures.json", "figures"
MADE_BY = "nnUNetv2_selfreg inspect"


def check_output(output: Path, overwrite: bool) -> None:
    """Refuses a folder that is there, unless it is a report that may be replaced.

    Raises:
        SelfRegError: It is there and may not be replaced, or holds anything but a report.
    """
    if not output.exists():
        return
    if not overwrite:
        raise SelfRegError(f"-o {output} exists already; name another, or replace a report with --overwrite")
    if not _is_report(output):
        raise SelfRegError(
            f"-o {output} is not a report and nothing else, so --overwrite leaves it alone; name another"
        )


def put(report: Path, output: Path, aside: Path) -> None:
    """Moves a finished report to its place, and what is there aside; if it cannot get there, that is moved back.

    Args:
        report: The new report's folder.
        output: Its place.
        aside: A name that is not taken, on the same file system.

    Raises:
        OSError: It cannot be moved.
    """
    if output.exists():
        os.replace(output, aside)
    try:
        os.replace(report, output)
    except BaseException:
        if aside.exists():
            os.replace(aside, output)
        raise


def _is_report(folder: Path) -> bool:
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != {PAGE, NUMBERS, PICTURES}:
        return False
    pictures = folder / PICTURES
    if not pictures.is_dir() or any(path.suffix != ".png" for path in pictures.iterdir()):
        return False
    try:
        content = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("made_by") == MADE_BY
