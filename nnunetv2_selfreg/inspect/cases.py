"""The images to inspect, read and preprocessed by nnU-Net and cut into the patches of its sliding window."""

import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from numpy.typing import NDArray
from torch import Tensor

from nnunetv2_selfreg.errors import SelfRegError


@dataclass(frozen=True)
class CaseFiles:
    """One case on disk.

    Attributes:
        name: nnU-Net's name of the case.
        images: One file per channel, or one with all channels.
        label: The reference; None when there is none.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None


@dataclass(frozen=True)
class Case:
    """One preprocessed case.

    Attributes:
        name: nnU-Net's name of the case.
        image: `(channels, *spatial)`, padded to at least one patch.
        labels: The reference on the same grid, `(*spatial)`; None when there is none.
        slicers: nnU-Net's patches, as indices into `image`.
        spacing: Size of a voxel along each of the patch's axes, in the image's unit of length.
    """

    name: str
    image: Tensor
    labels: Tensor | None
    slicers: Sequence[tuple[Any, ...]]
    spacing: tuple[float, ...]


def find_cases(images: Path, labels: Path | None, ending: str, channels: int, natural: bool = False) -> list[CaseFiles]:
    """Finds the cases that were asked for, sorted by name.

    Args:
        images: A folder of nnU-Net's image files `CASE_0000.nii.gz`, one of these files, or a case's path without
            `_0000.nii.gz`.
        labels: A folder of `CASE.nii.gz`; None when there are no references.
        ending: The data set's file ending.
        channels: How many files make a case.
        natural: Whether one file may hold all channels, as an RGB picture does.

    Raises:
        SelfRegError: There is no such image, channel or reference.
    """
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}")
    folder, wanted = (images, None) if images.is_dir() else (images.parent, images.name)
    found: dict[str, dict[int, Path]] = {}
    for path in folder.iterdir():
        if match := pattern.fullmatch(path.name):
            found.setdefault(match[1], {})[int(match[2])] = path
    if wanted is not None:
        match = pattern.fullmatch(wanted)
        name = match[1] if match else wanted.removesuffix(ending)
        found = {name: found[name]} if name in found else {}
    if not found:
        what = "no image" if wanted is None else "neither a folder nor an image"
        raise SelfRegError(f"--images {images}: {what} named CASE_0000{ending}, as nnU-Net names them")
    if labels is not None and not labels.is_dir():
        raise SelfRegError(f"--labels {labels} is not a folder of references CASE{ending}")
    cases = []
    for name, files in sorted(found.items()):
        if sorted(files) != list(range(channels)) and not (natural and list(files) == [0]):
            has = ", ".join(f"{channel:04d}" for channel in sorted(files))
            raise SelfRegError(f"--images {images}: case {name} has the channels {has}; the model takes {channels}")
        label = None if labels is None else labels / f"{name}{ending}"
        if label is not None and not label.is_file():
            raise SelfRegError(
                f"--labels {labels} has no {label.name}; give every case a reference or leave --labels out"
            )
        cases.append(CaseFiles(name, tuple(path for _, path in sorted(files.items())), label))
    return cases


def spread(cases: Sequence[CaseFiles], most: int) -> list[CaseFiles]:
    """At most so many of the cases, evenly spread over them."""
    chosen = np.linspace(0, len(cases) - 1, min(most, len(cases))).round().astype(int)
    return [cases[i] for i in chosen]


def prepare(files: CaseFiles, predictor: Any) -> Case:
    """Reads and preprocesses a case as nnU-Net does to predict it.

    Args:
        files: The case.
        predictor: nnU-Net's predictor of the model.

    Raises:
        SelfRegError: A file cannot be read, or image and reference do not fit.
    """
    configuration, plans = predictor.configuration_manager, predictor.plans_manager
    description, reader = predictor.dataset_json, plans.image_reader_writer_class()
    preprocessor = configuration.preprocessor_class(verbose=False)
    try:
        data, properties = reader.read_images([str(path) for path in files.images])
        labels = None if files.label is None else reader.read_seg(str(files.label))[0]
        _check_channels(files.name, len(data), len(description["channel_names"]))
        if labels is not None:
            _check_labels(files.name, labels, description["labels"])
        with redirect_stdout(StringIO()):
            data, labels, properties = preprocessor.run_case_npy(
                data, labels, properties, plans, configuration, description
            )
    except SelfRegError:
        raise
    except (RuntimeError, AssertionError, OSError, ValueError) as error:
        reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "unreadable")
        raise SelfRegError(f"case {files.name} cannot be preprocessed: {reason}") from None
    patch_size = configuration.patch_size

    def padded(array: Any) -> Tensor:
        image: Tensor = pad_nd_image(torch.as_tensor(array), patch_size, "constant", {"value": 0})
        return image

    image = padded(data)
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    spacing[-len(configuration.spacing) :] = configuration.spacing
    return Case(
        files.name,
        image.float(),
        None if files.label is None else padded(labels)[0],
        predictor._internal_get_sliding_window_slicers(image.shape[1:]),
        tuple(float(size) for size in spacing[-len(patch_size) :]),
    )


def _check_channels(case: str, found: int, channels: int) -> None:
    if found != channels:
        raise SelfRegError(f"case {case} has {found} image channel{'s' * (found != 1)}; the model takes {channels}")


def _check_labels(case: str, labels: NDArray[Any], described: Mapping[str, Any]) -> None:
    known = np.unique(np.concatenate([np.atleast_1d(value) for value in described.values()]))
    unknown = np.setdiff1d(labels, known)
    if len(unknown):
        found, expected = (", ".join(f"{value:g}" for value in values) for values in (unknown, known))
        raise SelfRegError(f"the reference of case {case} holds {found}; the model's dataset.json knows {expected}")
