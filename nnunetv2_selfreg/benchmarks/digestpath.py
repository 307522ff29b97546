"""DigestPath 2019's colonoscopy tissue segmentation: 660 large pictures, those with lesions with a mask.

Patches of 1536x1536 pixels are cut with a stride of 512, fully inside the picture, and kept when the standard deviation
over pixels and colours is at least 10, the mean at most 230 and at least 100 pixels are lesion. The last of these keeps
pictures without lesion (negatives) from giving any patch, in training as in the test. The test's whole pictures, with
and without lesion, are written besides (`imagesTsWhole`, `labelsTsWhole`), as the filtered patches do not cover them.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from nnunetv2_selfreg.benchmarks.benchmark import SEED, ArchiveCase, Benchmark, Staging, sort_drawn
from nnunetv2_selfreg.benchmarks.pictures import Bytes, Mask, binary, read_pair, write_pair
from nnunetv2_selfreg.benchmarks.protocol import Protocol
from nnunetv2_selfreg.benchmarks.published import OF_PIXELS, RERUN, THIRD_PARTY, rows

PICTURES = 660
PATCH, STRIDE = 1536, 512
LEAST_STD, HIGHEST_MEAN, LEAST_LESION = 10, 230, 100

_PATCHES = Protocol(
    title="DigestPath, patches",
    dataset="digestpath",
    split="patches of the validation part of a seeded 80/20 split of ours; the published split is not known",
    classes=("lesion",),
    metrics=OF_PIXELS,
    volumes="patches",
    cluster=r"(.+)_y\d+_x\d+",
    published=rows(f"SelfReg-UNet | pixel_accuracy | 96.28 | {RERUN} | {THIRD_PARTY}"),
)
PROTOCOLS = {
    "digestpath": _PATCHES,
    "digestpath_wsi": replace(
        _PATCHES,
        title="DigestPath, whole images",
        split="validation part of a seeded 80/20 split of ours; the published split is not known",
        volumes="images",
        cluster=r"(?!.+_y\d+_x\d+$)(.+)",  # no patch
        published=rows(f"SelfReg-UNet | pixel_accuracy | 97.77 | {RERUN} | {THIRD_PARTY}"),
    ),
}


def patches(image: Bytes, lesion: Mask) -> Iterator[tuple[int, int]]:
    """Finds the patches of an image, (rows, columns, 3), that the protocol keeps: row and column of the upper left."""
    rows, columns = lesion.shape
    for top in range(0, rows - PATCH + 1, STRIDE):
        for left in range(0, columns - PATCH + 1, STRIDE):
            window = np.s_[top : top + PATCH, left : left + PATCH]
            pixels, inside = image[window], lesion[window]
            if np.count_nonzero(inside) >= LEAST_LESION and pixels.mean() <= HIGHEST_MEAN and pixels.std() >= LEAST_STD:
                yield top, left


def _write(case: ArchiveCase, staging: Staging) -> None:
    image, mask = read_pair(case)
    lesion = binary(mask, case.name)
    corners = list(patches(image, lesion))
    for top, left in corners:
        window = np.s_[top : top + PATCH, left : left + PATCH]
        write_pair(staging, case, image[window], lesion[window], name=f"{case.name}_y{top:05d}_x{left:05d}")
    if case.part == "test":
        write_pair(staging, case, image, lesion, suffix="Whole")
    if case.label is not None and not corners:
        staging.skipped["pictures with a mask gave no patch"] += 1


def _may_be_unlabelled(image: Path) -> bool:
    """Not in a folder or archive named after pos, as the challenge's pictures with lesions are: tissue-train-pos-v1."""
    for folder in list(image.parents)[:2]:
        said = set(re.findall(r"(?<![a-z])(pos|neg)", folder.name.lower()))
        if len(said) == 1:
            return said == {"neg"}
    return True


BENCHMARK = Benchmark(
    _PATCHES,
    dataset="DigestPath",
    number=427,
    example="NAME.jpg with NAME_mask.jpg",
    wanted=re.compile(r"(?:^|/)(?P<name>[^/]+?)(?:\.(?i:jpe?g)|(?P<label>_mask)\.(?i:jpe?g|png))$"),
    templates=("{}.jpg", "{}_mask.jpg"),
    sort=partial(sort_drawn, count=PICTURES),
    write=_write,
    description=f"80/20 split by picture, drawn with seed {SEED} as none was published; patches of {PATCH}x{PATCH}, "
    f"stride {STRIDE}, with standard deviation >= {LEAST_STD}, mean <= {HIGHEST_MEAN} and >= {LEAST_LESION} pixels of "
    "lesion, so none of pictures without lesion; whole test pictures in imagesTsWhole",
    licence="research use under the challenge's terms",
    reference="Da et al., DigestPath: A benchmark dataset with challenge review for the pathological detection and "
    "segmentation of digestive-system, Medical Image Analysis 2022",
    unlabelled=_may_be_unlabelled,
)
