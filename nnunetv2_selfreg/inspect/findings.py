"""What the figures say, in sentences."""

from collections.abc import Sequence

import numpy as np

from nnunetv2_selfreg.inspect.compare import compare, mean_over_targets, summarise, with_class_means
from nnunetv2_selfreg.inspect.drawing import short
from nnunetv2_selfreg.inspect.measure import INPUT, Inspection, Key

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


def findings(inspections: Sequence[Inspection]) -> list[str]:
    """What the figures say, one sentence each, higher or lower alike."""
    lines = []
    for number, inspection in enumerate(inspections):
        prefix = f"{'AB'[number]}: " if len(inspections) > 1 else ""
        values = with_class_means(inspection.values)
        for measure in ("in_class_share", "redundancy", "effective_rank_share"):
            means = {
                stage: mean
                for stage in inspection.model.stages
                if (mean := summarise(values.get(Key(measure, stage), {})).mean) is not None
            }
            if not means:
                continue
            low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
            parts = ", ".join(
                f"{part} {np.mean(found):.3f}"
                for part in ("encoder", "decoder")
                if (found := [mean for stage, mean in means.items() if stage.startswith(part)])
            )
            text = f"{prefix}{MEASURES[measure]}: mean of the stages {parts}"
            if len(means) > 1:
                text += f"; lowest at {short(low)} ({means[low]:.3f}), highest at {short(high)} ({means[high]:.3f})"
            area = summarise(mean_over_targets(values, "class_area", INPUT)).mean
            if measure == "in_class_share" and area is not None:
                text += f"; an even map would have {area:.3f}"
            lines.append(text + ".")
    if len(inspections) == 2:
        paired = compare(*inspections)
        for measure in COMPARED:
            each = {
                stage: difference.mean
                for stage in inspections[0].model.stages
                if (difference := paired.get(Key(measure, stage))) and difference.mean is not None
            }
            if each:
                higher, lower = (sum(sign * mean > 0 for mean in each.values()) for sign in (1, -1))
                lines.append(
                    f"B minus A, {MEASURES[measure]}: higher at {higher}, lower at {lower} of {len(each)} stages; "
                    f"mean of the stages {np.mean(list(each.values())):+.3f}."
                )
        lines.append(
            "Two trainings differ by chance as well: the spread over cases says nothing about another training. "
            "Compare several folds or seeds before you call a difference an effect of the method."
        )
    return lines
