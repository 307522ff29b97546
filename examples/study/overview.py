"""Every experiment as one row: SelfReg minus stock in mean Dice, of the study and of the paper's benchmarks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
from evidence import CONFIRMATION, SCREEN, STOCK, TITLES, primary
from scipy.stats import t as student

from nnunetv2_selfreg import statistics
from nnunetv2_selfreg.benchmarks.metrics import METRICS
from nnunetv2_selfreg.benchmarks.results import Pair, Section, read_results
from nnunetv2_selfreg.comparison import MEAN, Comparison, compare

RULE, METRIC = "published", "dice"
METHOD, BASELINE = "SelfReg-UNet", "U-Net"  # as the paper's rows are named
NETWORKS = {  # of the arms with SelfReg as published, where it is not nnU-Net's own
    "nnUNetTrainerSelfReg_4000steps": [],
    "nnUNetTrainerSelfRegPlain_4000steps": ["plain U-Net"],
}
OTHER_FORMS = {"nnUNetTrainerSelfRegDecorrelation_4000steps"}  # of nnU-Net's own network
FORMS = {  # the arms of screen.yaml and seeds.yaml
    "selfreg": "SelfReg, as published",
    "scr_expected": "SCR in its expected form",
    "attention": "Attention",
    "cka": "CKA",
    "probe": "Linear probe",
    "decorrelation": "Decorrelation",
    "tiny": "Weights of 1e-6, the same seed",
}
SCREENS = (SCREEN, "hippocampus_seeds", CONFIRMATION)
LOOKS = {15: 0.001, 25: 0.001, 35: 0.049}  # of the confirmation: after so many pairs it needs a p below this


def of_study(summaries: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The registered comparison of each data set, and the one with the runs that were added later."""
    rows = []
    for name, part in summaries.items():
        title = TITLES.get(name, name)
        for compared in part["comparisons"]:
            registered = compared is primary(part)
            if registered or compared["name"].endswith(", all"):
                label = title if registered else f"{title}; with the runs added later"
                again = part["noise"] if registered else []
                over_cases, over_folds = (compared[key][MEAN] for key in ("classes", "over_folds"))
                noise = [_noise(each["over_folds"][MEAN], _each_run(each)) for each in again]
                rows.append(_row(label, over_cases, over_folds, _each_run(compared)) | {"noise": noise})
    return rows


def of_forms(summaries: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each form minus stock over pairs of trainings, as screen.yaml registers it; then stock minus itself.

    A pair is one training of both on the same fold of a repetition. The intervals are Student's t, over pairs and over
    the folds' means. `settled` says of the confirmation whether its trainings are over.
    """
    rows = []
    for dataset in (name for name in SCREENS if name in summaries):
        part = summaries[dataset]
        named = {compared["name"].removesuffix(f" - {STOCK}"): compared for compared in part["comparisons"]}
        found = [(title, named[arm]) for arm, title in FORMS.items() if arm in named]
        for title, compared in found:
            row = _form(dataset, title, [compared]) | {"over_folds": _ends(compared["over_folds"][MEAN])}
            is_settled = settled(row["runs"], row["p"]) if dataset == CONFIRMATION else None
            rows.append(row | {"settled": is_settled})
        # each training of stock in one pair: repetition 1 - 0, 3 - 2 and so on
        firsts = sorted({number for compared in part["noise"] for number in compared["repetitions"]})[::2]
        again = [
            compared
            for compared in part["noise"]
            if compared["repetitions"][0] in firsts and compared["repetitions"][1] == compared["repetitions"][0] + 1
        ]
        rows += [_form(dataset, "Stock again", again)] if sum(len(each["runs"]) for each in again) > 1 else []
    return rows


def settled(pairs: int, p: float) -> bool:
    """Whether the confirmation ends after so many pairs, as confirmation.yaml registers its looks."""
    return pairs == max(LOOKS) or (pairs in LOOKS and p < LOOKS[pairs])


def _form(dataset: str, name: str, compared: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    pairs = [difference for each in compared for difference in _each_run(each)]
    stock = statistics.exact_mean(each["classes"][MEAN]["other"] for each in compared)
    return _form_row(TITLES[dataset], name, pairs, stock)


def _form_row(experiment: str, name: str, pairs: list[float], stock: float) -> dict[str, Any]:
    spread = statistics.spread(pairs)
    deviation = spread["sd"] / len(pairs) ** 0.5
    # of the two-sided t test that the mean is 0; NaN where the pairs are one or alike
    p = 2 * float(student.sf(abs(spread["mean"]) / deviation, len(pairs) - 1)) if deviation > 0 else nan
    return {
        "experiment": experiment,
        "name": name,
        "runs": len(pairs),
        "stock": stock,
        "difference": spread["mean"],
        "sd": spread["sd"],
        "over_pairs": _ends(spread),
        "over_folds": None,
        "p": p,
        "each_run": pairs,
    }


def of_paper(folder: Path, again: Path | None = None) -> list[dict[str, Any]]:
    """Each arm of the paper's benchmarks with SelfReg as published, on the runs that stock has, too.

    Args:
        folder: What `leaderboard score` wrote to.
        again: The same of fresh trainings. They give a row of their own and one with the first, and the noise.

    Raises:
        SelfRegError: The runs cannot be read.
    """
    rows = []
    fresh = {part.key: part for part in _of_benchmarks(again)} if again else {}
    for part in _of_benchmarks(folder):
        if part.trainer not in NETWORKS:
            continue
        repeated = fresh.get(part.key)
        rows.append(part.row() | {"noise": [repeated.noise(part)] if repeated else []})
        if repeated:
            rows += [repeated.row("fresh trainings"), repeated.beside(part).row("with the fresh trainings")]
    return rows


def forms_of_paper(folder: Path) -> list[dict[str, Any]]:
    """Decorrelation minus stock on the paper's benchmarks, as `of_forms` has it; a pair is a fold.

    Args:
        folder: What `leaderboard score` wrote to.

    Raises:
        SelfRegError: The runs cannot be read.
    """
    rows = []
    for part in _of_benchmarks(folder):
        if part.trainer in OTHER_FORMS:
            found = part.compared()
            pairs, stock = found.by_run[MEAN].tolist(), float(found.over_cases.loc[MEAN, "other"])
            row = _form_row(part.label(), FORMS["decorrelation"], pairs, stock)
            rows.append(row | {"over_folds": row["over_pairs"], "settled": None})
    return rows


@dataclass(frozen=True)
class _Compared:
    """A trainer of the paper's benchmarks and its stock trainer: their scores on the runs of both."""

    section: Section
    pair: Pair
    mine: pd.DataFrame
    other: pd.DataFrame

    @property
    def key(self) -> tuple[str, str, str]:
        """What it shares with a repetition of its trainings."""
        return self.section.benchmark, self.section.protocol, self.pair.name

    @property
    def trainer(self) -> str:
        return self.pair.selfreg.trainer

    def label(self, *more: str) -> str:
        title = TITLES.get(self.section.benchmark, f"{self.section.definition.title}, {self.section.protocol}")
        return "; ".join(
            [title, ", ".join([*NETWORKS.get(self.trainer, []), *more, "test images", *self.pair.incomplete])]
        )

    def compared(self) -> Comparison:
        return self._compare(self.mine, self.other)

    def row(self, *more: str) -> dict[str, Any]:
        found = self.compared()
        over_cases, over_folds = found.over_cases.loc[MEAN].to_dict(), found.over_folds.loc[MEAN].to_dict()
        row = _row(self.label(*more), over_cases, over_folds, found.by_run[MEAN].tolist())
        return row | {"reported": _reported(self.section)}

    def beside(self, first: "_Compared") -> "_Compared":
        """Both repetitions together; of the two, the later one says what is incomplete."""
        mine, other = (
            pd.concat([one, two.assign(repetition="again")])
            for one, two in ((first.mine, self.mine), (first.other, self.other))
        )
        return replace(self, mine=mine, other=other)

    def noise(self, first: "_Compared") -> dict[str, Any]:
        """Stock's second training minus its first, over folds."""
        shared = first.other[first.other["fold"].isin(self.other["fold"])]
        found = self._compare(self.other, shared)
        return _noise(found.over_folds.loc[MEAN], found.by_run[MEAN].tolist())

    def _compare(self, mine: pd.DataFrame, other: pd.DataFrame) -> Comparison:
        return compare(mine, other, self.section.definition.classes, METRICS[METRIC].margin)


def _of_benchmarks(folder: Path) -> Iterator[_Compared]:
    """Each trainer of the paper's benchmarks beside its stock trainer. Models alone, no ensembles."""
    for section in read_results(folder):
        if METRIC in section.definition.metrics[RULE] and "alone" in section.protocol:
            for pair in section.pairs:
                mine, other = (arm.of(RULE, METRIC, pair.runs) for arm in (pair.selfreg, pair.stock))
                yield _Compared(section, pair, mine, other)


def _row(
    name: str, over_cases: Mapping[str, float], over_folds: Mapping[str, float], runs: list[float]
) -> dict[str, Any]:
    return {
        "name": name,
        "runs": len(runs),
        "cases": int(over_cases["cases"]),
        "stock": over_cases["other"],
        "difference": over_cases["mean"],
        "over_folds": _ends(over_folds),
        "over_cases": _ends(over_cases),
        "each_run": runs,
        "noise": [],
        "reported": None,
    }


def _ends(interval: Mapping[str, float]) -> dict[str, float]:
    return {end: interval[end] for end in ("low", "high")}


def _each_run(compared: Mapping[str, Any]) -> list[float]:
    return [run["difference"][MEAN] for run in compared["runs"]]


def _noise(over_folds: Mapping[str, float], runs: list[float]) -> dict[str, Any]:
    """Stock's second training minus its first."""
    return {"mean": over_folds["mean"], "sd": over_folds["sd"], "each_run": runs}


def _reported(section: Section) -> float | None:
    """The paper's own gain on the same test set: its U-Net with SelfReg minus without."""
    published = {row.method: row.values[MEAN] for row in section.published(RULE, METRIC)}
    return published[METHOD] - published[BASELINE] if {METHOD, BASELINE} <= set(published) else None
