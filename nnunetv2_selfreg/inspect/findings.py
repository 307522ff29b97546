"""What the figures say, in sentences."""

from collections.abc import Mapping, Sequence

import numpy as np

from nnunetv2_selfreg.inspect.compare import SHARE, compare, mean_over_targets, summarise, with_class_means
from nnunetv2_selfreg.inspect.drawing import places, short
from nnunetv2_selfreg.inspect.measure import INPUT, Inspection, Key, Values

MEASURES = {
    "in_class_share": "in-class share",
    "redundancy": "redundancy",
    "effective_rank": "effective rank",
    "effective_rank_share": "effective rank / channels",
    "partner_correlation": "correlation of IFD's pairs",
    "constant_channels": "constant channels",
    "scr": "SCR",
    "ifd": "IFD",
}
# what two models are compared by; they may differ in their numbers of channels
COMPARED = ("in_class_share", "redundancy", "effective_rank_share", "partner_correlation", "scr", "ifd")


# figures are given with three digits; mean differences smaller than this count as none
EQUAL = 0.005


def findings(inspections: Sequence[Inspection]) -> list[str]:
    """What the figures say, one sentence each, higher or lower alike."""
    lines = []
    for number, inspection in enumerate(inspections):
        prefix = f"{'AB'[number]}: " if len(inspections) > 1 else ""
        lines += [prefix + line for line in _of_one(inspection)]
    if len(inspections) == 2:
        paired = compare(*inspections)
        for measure in COMPARED:
            each = {
                stage: difference.mean
                for stage in inspections[0].model.stages
                if (difference := paired.get(Key(measure, stage))) and difference.mean is not None
            }
            if each:
                lines.append(_of_two(measure, list(each.values())))
        lines.append(
            "Two trainings differ by chance as well: the spread over cases says nothing about another training. "
            "Compare several folds or seeds before you call a difference an effect of the method."
        )
    return lines


def _of_one(inspection: Inspection) -> list[str]:
    """Whether the encoder looks at the classes less than the decoder, and whether deep stages are more redundant."""
    lines = []
    values = with_class_means(inspection.values)
    shares = _means(inspection, values, SHARE)
    groups = [{stage: mean for stage, mean in shares.items() if stage.startswith(p)} for p in ("encoder", "decoder")]
    if all(groups):
        text = f"in-class share: {_against('the encoder', groups[0], 'the decoder', groups[1])}"
        area = summarise(mean_over_targets(values, "class_area", INPUT)).mean
        lines.append(f"{text}; an even map would have {area:.3f}." if area is not None else f"{text}.")
    where, columns = places(inspection)
    middle = (columns - 1) / 2
    for measure in ("redundancy", "effective_rank_share"):
        means = _means(inspection, values, measure)
        deep = {stage: mean for stage, mean in means.items() if where[stage][1] > middle}
        shallow = {stage: mean for stage, mean in means.items() if where[stage][1] < middle}
        if deep and shallow:
            names = (f"the {name} stages ({', '.join(map(short, group))})"
                     for name, group in (("deep", deep), ("shallow", shallow)))  # fmt: skip
            lines.append(f"{MEASURES[measure]}: {_against(next(names), deep, next(names), shallow)}.")
    return lines


def _means(inspection: Inspection, values: Values, measure: str) -> dict[str, float]:
    """A figure's mean over cases, by stage, where there is one."""
    each = {stage: summarise(values.get(Key(measure, stage), {})).mean for stage in inspection.model.stages}
    return {stage: mean for stage, mean in each.items() if mean is not None}


def _against(name: str, group: Mapping[str, float], other: str, others: Mapping[str, float]) -> str:
    one, two = (float(np.mean(list(means.values()))) for means in (group, others))
    sign = "about as high" if abs(one - two) < EQUAL else "higher" if one > two else "lower"
    than = "as" if sign.startswith("about") else "than"
    return f"{sign} in {name}, mean of the stages {one:.3f}, {than} in {other}, {two:.3f}"


def _of_two(measure: str, means: Sequence[float]) -> str:
    higher, lower = (sum(sign * mean >= EQUAL for mean in means) for sign in (1, -1))
    return (
        f"B minus A, {MEASURES[measure]}: higher at {higher}, lower at {lower}, within {EQUAL} at "
        f"{len(means) - higher - lower} of {len(means)} stages; mean of the stages {np.mean(means):+.3f}."
    )
