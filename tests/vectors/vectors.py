"""The published code's vectors: those that every clone has, and the complete set where it is at hand."""

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
COMPLETE = HERE.parents[2] / "shared" / "conformance" / "selfreg_published_loss.npz"
VECTORS = dict(np.load(COMPLETE if COMPLETE.is_file() else HERE / "selfreg_published_loss.npz"))


def cases(kind: str) -> list[str]:
    """The names of the cases of one loss, `ifd` or `scr`."""
    return sorted({name.split("_")[0] for name in VECTORS if name.startswith(kind)})
