"""What the values say, in sentences."""

from collections.abc import Mapping, Sequence

import pandas as pd

from nnunetv2_selfreg.inspect.measure import Inspection
from nnunetv2_selfreg.inspect.model import places, short
from nnunetv2_selfreg.inspect.values import AREA, IN_CLASS, with_class_means

# values are given with three digits; mean differences smaller than this count as none
EQUAL = 0.005
BY_CHANCE = (
    "Two trainings differ by chance as well: the spread over cases says nothing about another training. "
    "Compare several folds or seeds before you call a difference an effect of the method."
)


def findings(inspections: Sequence[Inspection], paired: pd.DataFrame, compared: Mapping[str, str]) -> list[str]:
    """What the values say, one sentence each, higher or lower alike.

    Args:
        inspections: One model, or the two of a comparison.
        paired: The differences of two models; empty for one.
        compared: The titles of the measures that two models are compared by.
    """
    lines = []
    for inspection in inspections:
        prefix = f"{inspection.letter}: " if inspection.letter else ""
        lines += [prefix + line for line in _of_one(inspection)]
    for measure, title in compared.items() if len(inspections) == 2 else ():
        each = _means(inspections[0], paired, measure)
        if len(each):
            higher, lower = (each >= EQUAL).sum(), (each <= -EQUAL).sum()
            lines.append(
                f"B minus A, {title}: higher at {higher}, lower at {lower}, within {EQUAL} at "
                f"{len(each) - higher - lower} of {len(each)} stages; mean of the stages {each.mean():+.3f}."
            )
    return lines + [BY_CHANCE] * (len(inspections) == 2)


def _of_one(inspection: Inspection) -> list[str]:
    """Whether the encoder looks at the classes less than the decoder, and whether deep stages are more redundant."""
    lines = []
    values = with_class_means(inspection.values)
    shares = _means(inspection, values, IN_CLASS)
    encoder = shares.index.str.startswith("encoder")
    if 0 < encoder.sum() < len(shares):
        area = values[values["measure"] == AREA].groupby("case")["value"].mean().mean()
        text = _against("the encoder", shares[encoder], "the decoder", shares[~encoder])
        lines.append(f"in-class share: {text}; an even map would have {area:.3f}.")
    columns = pd.Series({stage: column for stage, (_, column) in places(inspection.model.stages).items()})
    for measure, title in (("redundancy", "redundancy"), ("effective_rank_share", "effective rank / channels")):
        found = _means(inspection, values, measure)
        column, middle = columns[found.index], columns.max() / 2
        deep, shallow = found[column > middle], found[column < middle]
        if len(deep) and len(shallow):
            names = [f"the {name} stages ({', '.join(map(short, group.index))})"
                     for name, group in (("deep", deep), ("shallow", shallow))]  # fmt: skip
            lines.append(f"{title}: {_against(names[0], deep, names[1], shallow)}.")
    return lines


def _means(inspection: Inspection, values: pd.DataFrame, measure: str) -> pd.Series:
    """The means over cases of a measure of all channels, by stage, where there is one."""
    found = values[(values["measure"] == measure) & (values["class"] == "")]
    return found.groupby("stage")["value"].mean().reindex(list(inspection.model.stages)).dropna()


def _against(name: str, group: pd.Series, other: str, others: pd.Series) -> str:
    one, two = group.mean(), others.mean()
    sign = "about as high" if abs(one - two) < EQUAL else "higher" if one > two else "lower"
    than = "as" if sign.startswith("about") else "than"
    return f"{sign} in {name}, mean of the stages {one:.3f}, {than} in {other}, {two:.3f}"
