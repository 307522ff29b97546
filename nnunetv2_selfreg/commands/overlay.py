"""One picture of one case: what was scanned, what is right and what was predicted."""

from pathlib import Path

import numpy as np
import SimpleITK
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nnunetv2_selfreg.files import new_file

# Okabe and Ito's colours, which stay apart for colour-blind readers and on a grey picture.
COLOURS = {"RV": "#56B4E9", "myocardium": "#F0E442", "LV": "#D55E00"}
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

    rows = {"image": np.zeros_like(truth), "reference": truth, "prediction": predicted}
    figure = Figure(figsize=(2.2 * len(slices) + 0.4, 2.2 * len(rows) + 1.1), layout="constrained")
    figure.suptitle(f"{prediction.name.removesuffix('.nii.gz')}, not seen in training")
    for axes, (name, labels) in zip(figure.subplots(len(rows), len(slices), squeeze=False), rows.items(), strict=True):
        axes[0].set_ylabel(name)
        for axis, z in zip(axes, slices, strict=True):
            axis.set(xticks=[], yticks=[], title=f"slice {z + 1} of {len(volume)}" if name == "image" else "")
            axis.imshow(volume[z], cmap="gray", vmin=low, vmax=high)
            shown, colours = np.ma.masked_equal(labels[z], 0), ListedColormap(list(COLOURS.values()))
            axis.imshow(shown, cmap=colours, vmin=1, vmax=len(COLOURS), alpha=0.55, interpolation="nearest")
            for label in np.unique(truth[z][truth[z] > 0]) if name == "prediction" else ():
                axis.contour(truth[z] == label, levels=[0.5], colors="white", linewidths=1)
    outline = Line2D([], [], color="white", linewidth=1, label="outline of the reference")
    handles = [*(Patch(color=colour, label=name) for name, colour in COLOURS.items()), outline]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), facecolor="0.6", frameon=True)
    with new_file(output) as partial:
        figure.savefig(partial, dpi=150)
