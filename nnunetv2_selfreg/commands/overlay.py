"""One picture of one case: what was scanned, what is right and what was predicted."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nnunetv2_selfreg.files import new_file

# Okabe and Ito's colours, which stay apart for colour-blind readers and on a grey picture.
COLOURS = {1: ("RV", "#56B4E9"), 2: ("myocardium", "#F0E442"), 3: ("LV", "#D55E00")}
COLUMNS = 4


def write_overlay(image: Path, reference: Path, prediction: Path, output: Path) -> None:
    """Draws up to four slices between the base and the apex, each as image, reference and prediction.

    Args:
        image: The case's image, (slices, rows, columns).
        reference: Its labels, the same shape.
        prediction: The predicted labels, the same shape.
        output: The PNG.
    """
    volume, truth, predicted = (
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))) for path in (image, reference, prediction)
    )
    labelled = np.flatnonzero(truth.any((1, 2)))
    slices = labelled[np.unique(np.linspace(0, len(labelled) - 1, COLUMNS).round().astype(int))]
    low, high = np.percentile(volume, (0.5, 99.5))

    rows = {"image": None, "reference": truth, "prediction": predicted}
    tall = volume.shape[1] / volume.shape[2]
    figure = Figure(figsize=(2.2 * len(slices) + 0.4, 2.2 * tall * len(rows) + 1.1), layout="constrained")
    axes = figure.subplots(len(rows), len(slices), squeeze=False)
    figure.suptitle(f"{prediction.name.removesuffix('.nii.gz')}, not seen in training")
    for row, (name, labels) in enumerate(rows.items()):
        axes[row, 0].set_ylabel(name)
        for column, z in enumerate(slices):
            axis = axes[row, column]
            axis.set_xticks([])
            axis.set_yticks([])
            axis.imshow(volume[z], cmap="gray", vmin=low, vmax=high)
            if row == 0:
                axis.set_title(f"slice {z + 1} of {len(volume)}", fontsize=10)
            for label, (_, colour) in COLOURS.items():
                if labels is not None and (labels[z] == label).any():
                    shown = np.zeros((*labels[z].shape, 4))
                    shown[labels[z] == label] = to_rgba(colour, 0.55)
                    axis.imshow(shown, interpolation="nearest")
                if name == "prediction" and (truth[z] == label).any():
                    axis.contour(truth[z] == label, levels=[0.5], colors="white", linewidths=1)
    handles: list[Any] = [Patch(color=colour, label=name) for name, colour in COLOURS.values()]
    handles.append(Line2D([], [], color="white", linewidth=1, label="outline of the reference"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), facecolor="0.6", frameon=True)
    with new_file(output) as partial:
        figure.savefig(partial, dpi=150)
