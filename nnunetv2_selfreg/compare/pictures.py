"""Pictures of one case: its image with the outlines of the reference and of two predictions, side by side."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from numpy.typing import NDArray

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import listed, new_file
from nnunetv2_selfreg.reading import Volume, channel_names, read_images, read_labels

# Okabe and Ito's colours, which stay apart for colour-blind readers
COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")
Labels = NDArray[np.int64]
WIDTHS, HEIGHT = (2.0, 4.0), 5.0  # of a panel, inches
LEGEND = 6  # classes in a row


def find_images(folder: Path, case: str, dataset_json: Mapping[str, Any]) -> list[Path]:
    """Finds the images of a case, a file for each channel, in the order of the channels.

    Args:
        folder: A data set in nnUNet_raw, or a folder of its images.
        case: nnU-Net's name of the case.
        dataset_json: The data set's description; its key `dataset`, if there is one, names the files of each case.

    Raises:
        SelfRegError: There are none, a channel is missing, or two folders have the case.
    """
    if case in dataset_json.get("dataset", {}):
        # nnU-Net writes the whole paths into what it is given
        cases = get_filenames_of_train_images_and_targets(str(folder), deepcopy(dict(dataset_json)))
        return [Path(path) for path in cases[case]["images"]]
    ending, channels = dataset_json["file_ending"], len(channel_names(dataset_json))
    pattern = f"{escape(case)}_[0-9][0-9][0-9][0-9]{escape(ending)}"
    places = (folder / "imagesTr", folder / "imagesTs", folder)
    found = [paths for place in places if (paths := sorted(place.glob(pattern)))]
    if not found:
        raise SelfRegError(f"{folder} has no image {case}_0000{ending}, nor have its folders imagesTr and imagesTs")
    if len(found) > 1:
        both = " and ".join(str(paths[0].parent) for paths in found)
        raise SelfRegError(f"{both} each have images of the case {case}; name the folder that is meant")
    numbers = [int(path.name.removesuffix(ending)[-4:]) for path in found[0]]
    if numbers not in ([0], list(range(channels))):  # one file may hold all channels, as an RGB picture does
        has = ", ".join(path.name for path in found[0])
        raise SelfRegError(f"{found[0][0].parent}: the case {case} has {has}; dataset.json names {channels} channels")
    return found[0]


def draw_case(
    images: Sequence[Path],
    reference: Path,
    predictions: tuple[Path, Path],
    titles: tuple[str, str],
    labels: Mapping[str, int | list[int]],
    reader: type,
    path: Path,
) -> None:
    """Draws the image with the outlines of the reference and of each prediction, in three panels.

    Of a 3D image it is the slice, along the first axis, in which the predictions disagree in most voxels; voxels that
    the reference ignores do not count. The panels show what is outlined and some of what is around it. Three
    channels that nnU-Net's reader of natural images gave are shown in colour, of others the first channel is, grey
    from the 0.5th to the 99.5th percentile of its values.

    Args:
        images: The case's images, one for each channel or one with all.
        reference: Its label map.
        predictions: The two predicted label maps.
        titles: What to write above each prediction.
        labels: The classes of dataset.json, or regions of several labels.
        reader: nnU-Net's class that reads the files.
        path: The PNG, named after the case.

    Raises:
        SelfRegError: A file cannot be read whole, has another shape than the image, or holds a label that is not among
            the classes; or the picture cannot be written.
    """
    files = reader()
    volume, properties = read_images(files, images)
    truth, first, second = (_read(files, each, volume, labels) for each in (reference, *predictions))
    at = _telling_slice(truth, first, second, labels.get("ignore", -1))
    in_colour = issubclass(reader, NaturalImage2DIO) and len(volume) == 3
    place = [path.stem, f"slice {at + 1} of {len(truth)}"] if len(truth) > 1 else [path.stem]
    if not in_colour and len(volume) > 1:
        place.append(f"channel 1 of {len(volume)}")
    foreground = {name: label for name, label in labels.items() if label != 0}
    masks = {name: [np.isin(maps[at], label) for maps in (truth, first, second)] for name, label in foreground.items()}
    colours = dict(zip(foreground, class_colours(len(foreground)), strict=True))
    seen = [name for name in foreground if np.any(masks[name])]
    rows, columns = _window(np.any([masks[name] for name in seen], axis=(0, 1)) if seen else np.ones(truth.shape[1:]))
    tall, wide = (np.ptp(ends) * size for ends, size in zip((rows, columns), properties["spacing"][-2:], strict=True))
    width = float(np.clip(HEIGHT * wide / tall, *WIDTHS))

    with style.context("default"):  # nnU-Net's plots change the global style
        size = 3 * width, min(width * tall / wide, HEIGHT) + 0.8 + 0.25 * -(-len(seen) // LEGEND)
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(", ".join(place), x=0.01, ha="left", fontsize="medium")
        for panel, (axis, title) in enumerate(zip(figure.subplots(1, 3), ("reference", *titles), strict=True)):
            _show(axis, volume, at, in_colour)
            axis.set_aspect(properties["spacing"][-2] / properties["spacing"][-1])
            axis.set(xlim=columns, ylim=rows[::-1], xticks=[], yticks=[], title=title)
            outlines = {name: masks[name][panel] for name in seen}
            # a dark line below all of them makes the colours stand out from any image
            _outline(axis, outlines, dict.fromkeys(seen, "black"), 2.6)
            _outline(axis, outlines, colours, 1.4)
        handles = [Line2D([], [], color=colours[name], linewidth=3, label=name) for name in seen]
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=min(len(seen), LEGEND), frameon=False)
        with new_file(path) as partial:
            figure.savefig(partial, dpi=150, bbox_inches="tight")


def _read(reader: Any, path: Path, volume: Volume, labels: Mapping[str, int | list[int]]) -> Labels:
    """A label map, (slices, rows, columns)."""
    values = read_labels(reader, path)[0]
    if values.shape != (1, *volume.shape[1:]):
        has, wanted = (" x ".join(map(str, shape)) for shape in (values.shape[1:], volume.shape[1:]))
        raise SelfRegError(f"{path} has {has} voxels, the image {wanted}")
    known = np.concatenate([np.atleast_1d(label) for label in labels.values()])
    if len(unknown := np.setdiff1d(values, known)):
        raise SelfRegError(f"{path} holds {listed([f'{value:g}' for value in unknown])}, no label of dataset.json")
    return values[0].astype(np.int64)


def _telling_slice(truth: Labels, first: Labels, second: Labels, ignored: Any) -> int:
    """Where the predictions disagree most; if nowhere, where they and the reference do, or else most is labelled."""
    for marked in (first != second, first != truth, truth != 0):
        counts = (marked & (truth != ignored)).sum((1, 2))
        if counts.any():
            return int(counts.argmax())
    return len(truth) // 2


def class_colours(count: int) -> Sequence[str]:
    """A colour for each class, the same in every picture of a data set."""
    if count <= len(COLOURS):
        return COLOURS[:count]
    return [to_hex(colormaps["gist_rainbow"](position)) for position in np.linspace(0, 1, count)]


def _window(marked: NDArray[Any]) -> list[tuple[float, float]]:
    """The first and last edge to show along each axis: what is marked, and half of its larger extent on each side."""
    found = [np.flatnonzero(marked.any(1 - axis)) for axis in (0, 1)]
    margin = max(max(np.ptp(places) + 1 for places in found) / 2, 16)
    return [
        (max(places[0] - margin, 0) - 0.5, min(places[-1] + margin, size - 1) + 0.5)
        for places, size in zip(found, marked.shape, strict=True)
    ]


def _show(axis: Axes, volume: Volume, at: int, in_colour: bool) -> None:
    if in_colour:
        axis.imshow(np.moveaxis(volume[:, at], 0, -1) / max(255, volume.max()))
    else:
        low, high = np.percentile(volume[0], (0.5, 99.5))
        axis.imshow(volume[0, at], cmap="gray", vmin=low, vmax=high)


def _outline(axis: Axes, masks: Mapping[str, NDArray[np.bool_]], colours: Mapping[str, str], width: float) -> None:
    for name, mask in masks.items():
        if mask.any():
            # a border of zeros closes the outline at the image's edge
            rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
            axis.contour(columns, rows, np.pad(mask, 1), levels=[0.5], colors=[colours[name]], linewidths=width)
