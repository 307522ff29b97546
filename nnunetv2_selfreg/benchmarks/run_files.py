"""A scored run on disk: the scores of every case as a CSV, and a JSON file beside it that says what made them."""

import hashlib
import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from nnunetv2_selfreg.benchmarks.protocol import Protocol
from nnunetv2_selfreg.benchmarks.registry import PROTOCOLS
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import listed, new_file, read_json

RUN_COLUMNS = (
    "benchmark protocol trainer plans configuration fold seed".split()
)  # the same in every row, and in the JSON
COLUMNS = "benchmark protocol rule trainer plans configuration fold seed case cluster class metric value".split()
DESCRIPTION = {"cases": int, "clusters": int, "epochs": dict, "versions": dict, "incomplete": list, "missing": dict}
DIGEST = "sha256"  # the JSON file's key; files of older versions have none


def check_new(path: Path) -> None:
    """Raises SelfRegError if the CSV or the JSON file beside it is there already."""
    for there in filter(Path.exists, (path, path.with_suffix(".json"))):
        raise SelfRegError(f"{there} exists already; name another file, or replace it with --overwrite")


def write_run(path: Path, scores: pd.DataFrame, description: Mapping[str, Any]) -> dict[str, Any]:
    """Writes or replaces both files of a run, whole or not at all.

    Args:
        path: The CSV.
        scores: `COLUMNS`.
        description: What made the scores.

    Returns:
        What is written to the JSON file: the description, and a digest of it and of the CSV.
    """
    table = scores[COLUMNS].to_csv(index=False, lineterminator="\n").encode()
    content = {**description, DIGEST: _digest(table, description)}
    with new_file(path) as csv, new_file(path.with_suffix(".json")) as beside:
        csv.write_bytes(table)
        beside.write_bytes((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    return content


def read_runs(folder: Path) -> dict[Path, tuple[pd.DataFrame, dict[str, Any]]]:
    """Reads every run of a folder.

    Returns:
        `COLUMNS`, all but `value` as text, and the description of each, by the CSV's path.

    Raises:
        SelfRegError: There is no run, a file is not one or lacks the other beside it, or it is not as it was written.
    """
    files, descriptions = (
        sorted(path for path in folder.glob(f"*{end}") if path.name != f"table{end}" and path.name[0] != ".")
        for end in (".csv", ".json")
    )
    for path in descriptions:
        if path.with_suffix(".csv") not in files and {"benchmark", "protocol"} <= _description(path).keys():
            raise SelfRegError(f"{path} has no {path.stem}.csv beside it; score the run again, or remove it")
    if not files:
        raise SelfRegError(f"{folder} holds no scores; write them with nnUNetv2_selfreg leaderboard score")
    return {path: _read(path) for path in files}


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    try:
        content = path.read_bytes()
        frame = pd.read_csv(
            StringIO(content.decode()), dtype=dict.fromkeys(COLUMNS[:-1], str), keep_default_na=False,
            na_values={"value": ""},
        )  # fmt: skip
    except OSError as error:
        raise SelfRegError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # pandas' own errors are such
        raise SelfRegError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if list(frame.columns) != COLUMNS or frame.empty:
        raise SelfRegError(f"{path} is not what leaderboard score writes; move it out of the folder")
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise SelfRegError(f"{path} has no {beside.name} beside it; score it again")
    description = _description(beside)
    for name, kind in DESCRIPTION.items():
        if not isinstance(description.get(name), kind):
            raise SelfRegError(f"{beside} does not describe a run: {name} is {description.get(name)!r}; score it again")
    if defect := _defect(content, frame, description):
        raise SelfRegError(f"{path} is not as leaderboard score wrote it: {defect}; score it again")
    return frame, description


def _description(path: Path) -> dict[str, Any]:
    return read_json(path, "description of a run")


def _defect(content: bytes, frame: pd.DataFrame, description: Mapping[str, Any]) -> str | None:
    """What is wrong with a CSV; None if nothing is."""
    if not content.endswith(b"\n"):
        return "it ends in the middle of a line"
    if frame["value"].dtype.kind not in "fi":
        return "a value is no number"
    for name in RUN_COLUMNS:
        named = {"" if description.get(name) is None else str(description[name]), *frame[name]}
        if len(named) > 1:
            return f"its JSON file and its rows name more than one {name}: {listed(sorted(named))}"
    if (benchmark := frame["benchmark"].iloc[0]) not in PROTOCOLS:
        return f"{benchmark} is an unknown benchmark"
    if defect := _wrong_rows(frame, PROTOCOLS[benchmark], description["cases"]):
        return defect
    described = {name: value for name, value in description.items() if name != DIGEST}
    if description.get(DIGEST, digest := _digest(content, described)) != digest:
        return "it or its JSON file was changed since"
    return None


def _wrong_rows(frame: pd.DataFrame, protocol: Protocol, cases: int) -> str | None:
    """Every case has one row for each rule, metric and class."""
    rows = pd.MultiIndex.from_frame(frame[["rule", "metric", "class", "case"]])
    names = frame["case"].unique()
    wanted = pd.MultiIndex.from_tuples(
        [
            (rule, metric, name, case)
            for rule, metrics in protocol.metrics.items()
            for metric in metrics
            for name in protocol.classes
            for case in names
        ],
        names=rows.names,
    )
    kinds = {
        "repeats": rows[rows.duplicated()],
        "lacks": wanted.difference(rows, sort=False),
        "has": rows.difference(wanted, sort=False),
    }
    for what, found in kinds.items():
        if len(found):
            return f"it {what} {len(found)} rows, such as {' '.join(map(str, found[0]))}"
    return f"it holds {len(names)} cases of {cases}" if len(names) != cases else None


def _digest(content: bytes, description: Mapping[str, Any]) -> str:
    return hashlib.sha256(content + json.dumps(description, sort_keys=True).encode()).hexdigest()
