"""DigestPath 2019's colonoscopy tissue segmentation: 660 large pictures, those with lesions with a mask.

Patches of 1536x1536 pixels are cut with a stride of 512, fully inside the picture, and kept when the standard deviation
over pixels and colours is at least 10, the mean at most 230 and at least 100 pixels are lesion. The last of these keeps
pictures without lesion (negatives) from giving any patch, in training as in the test. The test's whole pictures, with
and without lesion, are written besides (`imagesTsWhole`, `labelsTsWhole`), as the filtered patches do not cover them.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nnunetv2_selfreg.datasets.benchmark import EXTRA, MISSING, Benchmark, Case, Staging, Survey
from nnunetv2_selfreg.datasets.pictures import Bytes, Mask, binary, check_same_size, read_mask, read_rgb, write_png
from nnunetv2_selfreg.datasets.splitting import SEED, drawn_for_test

PICTURES = 660
PATCH, STRIDE = 1536, 512
LEAST_STD, HIGHEST_MEAN, LEAST_LESION = 10, 230, 100

_WANTED = re.compile(r"(?:^|/)([^/]+?)(_mask)?\.jpg$")


def _survey(files: Sequence[Path]) -> Survey:
    survey = Survey()
    found = survey.unique(files, _WANTED)
    if not any(mask for _, mask in found):
        return survey
    images = {str(name): path for (name, mask), path in found.items() if not mask}
    labels = {str(name): path for (name, mask), path in found.items() if mask}
    for name in sorted(labels.keys() - images.keys()):
        survey.problem(MISSING, f"{name}.jpg")
    # The challenge keeps pictures with and without lesion in folders named after pos and neg.
    unmasked = {name for name in images.keys() - labels.keys() if re.search("pos", images[name].parent.name, re.I)}
    for name in sorted(unmasked):
        survey.problem(MISSING, f"{name}_mask.jpg")
    test = drawn_for_test(images)
    for name, image in sorted(images.items()):
        if name in unmasked:
            survey.missing["test" if name in test else "train"].append(name)
        else:
            survey.cases.append(Case(name, "test" if name in test else "train", image, labels.get(name), group=name))
    if len(images) < PICTURES:
        lack = f"{PICTURES - len(images)} of {PICTURES} pictures (their names are not published)"
        survey.lacks("train or test", lack)
    elif len(images) > PICTURES:
        survey.problem(EXTRA, f"{len(images) - PICTURES} pictures over {PICTURES}")
    return survey


def patches(image: Bytes, lesion: Mask) -> Iterator[tuple[int, int]]:
    """Finds the patches that the protocol keeps.

    Args:
        image: (rows, columns, 3).
        lesion: (rows, columns).

    Yields:
        The upper left corner of each, row and column.
    """
    rows, columns = lesion.shape
    for row in range(0, rows - PATCH + 1, STRIDE):
        for column in range(0, columns - PATCH + 1, STRIDE):
            window = np.s_[row : row + PATCH, column : column + PATCH]
            pixels = image[window]
            if (
                np.count_nonzero(lesion[window]) >= LEAST_LESION
                and pixels.mean() <= HIGHEST_MEAN
                and pixels.std() >= LEAST_STD
            ):
                yield row, column


def _write(case: Case, staging: Staging) -> list[str]:
    image = read_rgb(case.image)
    if case.label is None:
        lesion = np.zeros(image.shape[:2], bool)
    else:
        mask = read_mask(case.label)
        check_same_size(image, mask, case.name)
        lesion = binary(mask, case.label)
    written = []
    for row, column in patches(image, lesion):
        name = f"{case.name}_y{row:05d}_x{column:05d}"
        window = np.s_[row : row + PATCH, column : column + PATCH]
        write_png(image[window], staging.image(case.part, name))
        write_png(lesion[window], staging.label(case.part, name))
        written.append(name)
    if case.part == "test":
        write_png(image, staging.image(case.part, case.name, "Whole"))
        write_png(lesion, staging.label(case.part, case.name, "Whole"))
    if case.label is not None and not written:
        staging.counts["pictures with a mask gave no patch"] += 1
    return written


BENCHMARK = Benchmark(
    name="digestpath",
    dataset="DigestPath",
    number=427,
    title="DigestPath 2019's tissue segmentation archive",
    example="NAME.jpg with NAME_mask.jpg",
    wanted=_WANTED,
    survey=_survey,
    write=_write,
    channels=["R", "G", "B"],
    labels={"background": 0, "lesion": 1},
    ending=".png",
    protocol=f"80/20 split by picture, drawn with seed {SEED} as none was published; patches of {PATCH}x{PATCH}, "
    f"stride {STRIDE}, with standard deviation >= {LEAST_STD}, mean <= {HIGHEST_MEAN} and >= {LEAST_LESION} pixels of "
    "lesion, so none of pictures without lesion; whole test pictures in imagesTsWhole",
    licence="research use under the challenge's terms",
    reference="Da et al., DigestPath: A benchmark dataset with challenge review for the pathological detection and "
    "segmentation of digestive-system, Medical Image Analysis 2022",
    grouped=True,
    patches=True,
)
