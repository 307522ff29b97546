"""The images to inspect, read and preprocessed by nnU-Net and cut into the patches of its sliding window."""

import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.reading import channel_names, read_images, read_labels


class CaseFiles(NamedTuple):
    """One case on disk: nnU-Net's name of it, its images, and its reference if there is one."""

    name: str
    images: Sequence[Path]
    label: Path | None


class PreparedCase(NamedTuple):
    """One preprocessed case."""

    name: str
    image: Tensor  # (channels, *spatial), padded to at least one patch
    labels: Tensor | None  # the reference on the same grid, (*spatial)
    slicers: Sequence[tuple[Any, ...]]  # nnU-Net's patches, as indices into the image
    spacing: tuple[float, ...]  # a voxel's size along each of the patch's axes, in the image's unit of length


def find_cases(images: Path, labels: Path | None, ending: str, channels: int) -> list[CaseFiles]:
    """Finds the cases that were asked for, sorted by name.

    Args:
        images: A folder of nnU-Net's image files `CASE_0000.nii.gz`, one of these files, or a case's path without
            `_0000.nii.gz`.
        labels: A folder of `CASE.nii.gz`; None when there are no references.
        ending: The data set's file ending.
        channels: How many image channels a case has: a file for each, or in every case one file (RGB, 4D NIfTI).

    Raises:
        SelfRegError: There is no such image, channel or reference.
    """
    suffix = re.escape(ending)
    folder, wanted = images, None
    if not images.is_dir():
        folder, wanted = images.parent, re.sub(rf"(_\d{{4}})?{suffix}$", "", images.name)
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(rf"(.+)_(\d{{4}}){suffix}", path.name)
        if match and wanted in (None, match[1]):
            found[match[1]][match[2]] = path
    if not found:
        what = "no image" if wanted is None else "neither a folder nor an image"
        raise SelfRegError(f"--images {images}: {what} named CASE_0000{ending}, as nnU-Net names them")
    if labels is not None and not labels.is_dir():
        raise SelfRegError(f"--labels {labels} is not a folder of references CASE{ending}")
    in_one_file = all([*files] == ["0000"] for files in found.values())
    cases = []
    for name, files in sorted(found.items()):
        has = ", ".join(files)
        if not in_one_file and has != ", ".join(f"{channel:04d}" for channel in range(channels)):
            raise SelfRegError(f"--images {images}: case {name} has the channels {has}; the model takes {channels}")
        label = labels and labels / f"{name}{ending}"
        if label and not label.is_file():
            raise SelfRegError(
                f"--labels {labels} has no {label.name}; give every case a reference or leave --labels out"
            )
        cases.append(CaseFiles(name, list(files.values()), label))
    return cases


def evenly(cases: Sequence[CaseFiles], most: int) -> list[CaseFiles]:
    """At most so many of the cases, evenly spread over them."""
    chosen = np.linspace(0, len(cases) - 1, min(most, len(cases))).round().astype(int)
    return [cases[i] for i in chosen]


def prepare(files: CaseFiles, predictor: Any) -> PreparedCase:
    """Reads and preprocesses a case as nnU-Net's predictor of the model does; SelfRegError if it does not fit it."""
    configuration, plans = predictor.configuration_manager, predictor.plans_manager
    description, reader = predictor.dataset_json, plans.image_reader_writer_class()
    try:
        data, properties = read_images(reader, files.images)
        labels = None if files.label is None else read_labels(reader, files.label)[0]
        _check(files.name, data, labels, description)
        with redirect_stdout(StringIO()):
            data, labels, properties = configuration.preprocessor_class(verbose=False).run_case_npy(
                data, labels, properties, plans, configuration, description
            )
    except SelfRegError:
        raise
    except (RuntimeError, AssertionError, OSError, ValueError) as error:
        reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "unreadable")
        raise SelfRegError(f"case {files.name} cannot be preprocessed: {reason}") from None
    image, reference = (
        pad_nd_image(torch.as_tensor(array), configuration.patch_size, "constant", {"value": 0})
        for array in (data, labels)
    )
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    spacing[-len(configuration.spacing) :] = configuration.spacing
    return PreparedCase(
        files.name,
        image.float(),
        None if files.label is None else reference[0],
        predictor._internal_get_sliding_window_slicers(image.shape[1:]),
        tuple(float(size) for size in spacing[-len(configuration.patch_size) :]),
    )


def _check(case: str, image: Any, labels: Any, description: dict[str, Any]) -> None:
    """Refuses an image or a reference that nnU-Net would take, but of which the model knows nothing."""
    channels = len(channel_names(description))
    if len(image) != channels:
        raise SelfRegError(
            f"case {case} has {len(image)} image channel{'s' * (len(image) != 1)}; the model takes {channels}"
        )
    known = np.unique(np.concatenate([np.atleast_1d(value).astype(int) for value in description["labels"].values()]))
    unknown = np.setdiff1d([] if labels is None else labels, known)
    if len(unknown):
        found, expected = (", ".join(f"{value:g}" for value in values) for values in (unknown, known))
        raise SelfRegError(f"the reference of case {case} holds {found}; the model's dataset.json knows {expected}")
