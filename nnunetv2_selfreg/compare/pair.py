"""Brings the trainings of two models to the same folds and cases, and refuses those that do not belong together."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from nnunetv2_selfreg.compare.summaries import TOGETHER, Training
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import listed

DATA_KEYS = ("labels", "channel_names", "file_ending", "regions_class_order")  # of dataset.json


def matched(trainings: Sequence[Training], common_only: bool, other_plans: bool) -> tuple[list[Training], list[str]]:
    """The trainings with what all of them have.

    Args:
        trainings: Of the first model and the second in turn.
        common_only: Leave out folds and cases that some of them lack, instead of refusing.
        other_plans: Compare although the plans differ.

    Returns:
        The trainings, and a line for each thing that was left out or is different.

    Raises:
        SelfRegError: Other data, splits or plans, a fold that cannot be compared, or folds and cases that only some
            have.
    """
    if described := next((training.dataset for training in trainings if training.dataset), None):
        trainings = [training.described_by(described) for training in trainings]
    first, *others = trainings
    notes: list[str] = []
    for other in others:
        _check_data(first, other)
        _check_splits(first, other)
        if different := _different_plans(first.plans, other.plans):
            line = f"the plans of {other.folder} differ from those of {first.folder} in {listed(different)}"
            if not other_plans:
                raise SelfRegError(f"{line}; compare them all the same with --other-plans")
            notes.append(line)
    for model in (trainings[0::2], trainings[1::2]):
        _check_repetitions(model)
    for training in trainings:
        for fold, reason in training.unusable.items():
            _leave_out(f"fold {fold} of {training.folder} {reason}", common_only, notes)
    common = [case for case in first.cases if all(case in other.predictions for other in others)]
    for training in trainings:
        lacking = {fold for other in trainings for fold in other.folds} - set(training.folds) - set(training.unusable)
        for fold in sorted(lacking):
            _leave_out(f"{training.folder} has no fold {fold}", common_only, notes)
        kept = set.intersection(*(set(other.folds) for other in trainings))
        extra = [
            f"{case} (fold {fold})" for fold, case in training.cases if fold in kept and (fold, case) not in common
        ]
        if extra:
            _leave_out(f"only {training.folder} has {listed(extra)}", common_only, notes)
    if not common:
        way_out = "; predict a test set with each and compare the folders" * any(
            "all" in each.unusable for each in trainings
        )
        raise SelfRegError(f"{first.folder} and {others[0].folder} have no case of a fold in common{way_out}")
    kept_trainings = [training.only(common) for training in trainings]
    for other in kept_trainings[1:]:
        _check_references(kept_trainings[0], other)
    for model in (kept_trainings[0::2], kept_trainings[1::2]):
        for one, another in combinations(model, 2):
            if one.scores["value"].reset_index(drop=True).equals(another.scores["value"].reset_index(drop=True)):
                notes.append(
                    f"{one.folder} and {another.folder} have the same Dice in every case; if one is a copy of the "
                    "other, the noise of training is larger than said here"
                )
    return kept_trainings, list(dict.fromkeys(notes))


def _leave_out(line: str, common_only: bool, notes: list[str]) -> None:
    if not common_only:
        raise SelfRegError(f"{line}; leave out what not all have with --common-only")
    notes.append(line)


def _check_data(first: Training, other: Training) -> None:
    described = [(key, first.dataset, other.dataset) for key in DATA_KEYS]
    for key, mine, theirs in [("dataset_name", first.plans, other.plans), *described]:
        if mine and theirs and mine.get(key) != theirs.get(key):
            raise SelfRegError(
                f"{first.folder} and {other.folder} are of other data: {key} is {mine.get(key)!r} and "
                f"{theirs.get(key)!r}"
            )


def _check_repetitions(model: Sequence[Training]) -> None:
    """Refuses a repetition that was not trained as the first training of its model was."""
    first, *others = model
    for other in others:
        for key in filter(other.made_by.__contains__, first.made_by):
            mine, theirs = first.made_by[key], other.made_by[key]
            if mine != theirs:
                raise SelfRegError(
                    f"{other.folder} is no repetition of {first.folder}: {key} is {theirs} and {mine}; give --again a "
                    "training of the first model, then one of the second"
                )


def _check_splits(first: Training, other: Training) -> None:
    if (TOGETHER in first.folds) != (TOGETHER in other.folds):
        raise SelfRegError(
            f"{first.folder} and {other.folder}: one has scores by fold, the other of all cases together; give two "
            "model folders, or two folders of predictions"
        )
    mine, theirs = first.splits, other.splits
    for case in sorted(mine.keys() & theirs.keys()):
        if not mine[case] & theirs[case]:
            raise SelfRegError(
                f"{first.folder} and {other.folder} were trained on other splits: {case} is in fold "
                f"{listed(sorted(mine[case]))} of the first, in fold {listed(sorted(theirs[case]))} of the second; "
                "train both with the same splits_final.json"
            )


def _check_references(first: Training, other: Training) -> None:
    keys = ["fold", "case", "class"]
    both = first.scores.merge(other.scores, on=keys, how="outer", suffixes=("_mine", "_other"))
    mine, theirs = both["reference_mine"].fillna(-1).to_numpy(), both["reference_other"].fillna(-1).to_numpy()
    if len(unlike := both[~np.equal(mine, theirs)]):
        cases = list(dict.fromkeys(unlike["case"]))
        raise SelfRegError(
            f"{first.folder} and {other.folder} were scored against other references: those of {listed(cases)} hold "
            "other numbers of voxels"
        )


def _different_plans(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """By the configuration that was trained; where one side does not tell it, by all."""
    left_out = "configurations" if "configuration" in first and "configuration" in other else "configuration"
    mine, theirs = ({key: value for key, value in plans.items() if key != left_out} for plans in (first, other))
    return _differences(mine, theirs)


def _differences(first: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The keys, with dots, whose values are not the same; none where one side has no plans."""
    if not first or not other:
        return []
    found = []
    for key in dict.fromkeys([*first, *other]):
        mine, theirs = first.get(key), other.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping) and mine and theirs:
            found += _differences(mine, theirs, f"{prefix}{key}.")
        elif mine != theirs:
            found.append(f"{prefix}{key}")
    return found


def frame(trainings: Sequence[Training], patient: Callable[[str], str]) -> pd.DataFrame:
    """The scores of a model's trainings as `comparison.compare` takes them.

    Args:
        trainings: The repetitions of one model.
        patient: The patient of a case.
    """
    scores = pd.concat([training.scores.assign(repetition=number) for number, training in enumerate(trainings)])
    return scores.assign(cluster=scores["case"].map(patient)).drop(columns="reference").reset_index(drop=True)
