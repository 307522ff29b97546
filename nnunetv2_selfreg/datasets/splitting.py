"""A seeded split, for benchmarks whose own was not published."""

from collections.abc import Iterable

import numpy as np

SEED = 0
TEST_SHARE = 0.2


def drawn_for_test(names: Iterable[str]) -> set[str]:
    """Draws a fifth of the names: NumPy's `default_rng(0)` permutes the sorted names, the first ones are drawn."""
    ordered = sorted(names)
    order = np.random.default_rng(SEED).permutation(len(ordered))
    return {ordered[index] for index in order[: round(TEST_SHARE * len(ordered))]}
