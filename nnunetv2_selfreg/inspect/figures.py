"""All pictures of the report. Both models of a comparison share every scale."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from nnunetv2_selfreg.inspect.images import draw_grad_cam, draw_similarity
from nnunetv2_selfreg.inspect.measure import Inspection
from nnunetv2_selfreg.inspect.plots import (
    draw_differences,
    draw_in_class_share,
    draw_measures,
    draw_ranking,
    draw_training,
)


def draw_all(inspections: Sequence[Inspection], unit: str) -> dict[str, Figure]:
    """Draws every picture.

    Args:
        inspections: One model, or the two of a comparison.
        unit: The images' unit of length.

    Returns:
        Figures by file name without suffix, in the order of the report.
    """
    figures = {}
    by_model = [
        {(picture.case, picture.target, picture.number): picture for picture in i.pictures} for i in inspections
    ]
    for number, which in enumerate(sorted(set().union(*by_model))):
        # without references a class may be predicted by one of the models only
        pictures = {model: found[which] for model, found in enumerate(by_model) if which in found}
        figures[f"grad_cam_{number:02d}"] = draw_grad_cam(inspections, pictures, unit)
    if any(key.measure == "in_class_share" for key in inspections[0].values):
        figures["in_class_share"] = draw_in_class_share(inspections)
    figures["channel_similarity"] = draw_similarity(inspections)
    figures["channels"] = draw_measures(
        inspections,
        {
            "redundancy": "redundancy: mean absolute\noff-diagonal correlation",
            "effective_rank_share": "effective rank\nover the number of channels",
            "partner_correlation": "mean correlation of the\nchannel pairs that IFD compares",
        },
    )
    figures["losses"] = draw_measures(
        inspections, {"scr": "SCR,\nmean squared difference", "ifd": "IFD,\nmean squared difference"}
    )
    figures["ranking"] = draw_ranking(inspections)
    if any(inspection.model.logging for inspection in inspections):
        figures["training"] = draw_training(inspections)
    if len(inspections) == 2:
        figures["differences"] = draw_differences(inspections)
    return figures
