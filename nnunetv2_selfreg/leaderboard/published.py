"""Published numbers to stand beside ours, from `published.json`."""

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def published() -> list[dict[str, Any]]:
    """Reads every published number.

    Returns:
        One dictionary per method, benchmark and metric: `benchmark` (a key of `BENCHMARKS`, or a data set of another
        protocol), `method`, `metric`, `rule`, `protocol` (`test`, or the name of another protocol, whose numbers
        belong into no table of the test set), `values` by class and `mean`, in the unit of the metric, `source`,
        `caveat`.
    """
    content = files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(content)["numbers"]
    return found
