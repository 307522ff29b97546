"""GlaS: colon glands in H&E, 85 pictures to train and 80 to test (60 of test A, 20 of test B)."""

import re
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_selfreg.datasets.benchmark import EXTRA, Benchmark, Case, Part, Staging, Survey
from nnunetv2_selfreg.datasets.pictures import check_same_size, read_mask, read_rgb, resize, resize_mask, write_png

SETS: dict[str, tuple[Part, int]] = {"train": ("train", 85), "testA": ("test", 60), "testB": ("test", 20)}

_WANTED = re.compile(r"(?:^|/)(train|testA|testB)_(\d+)(_anno)?\.(?:bmp|png)$")


def _survey(files: Sequence[Path]) -> Survey:
    survey = Survey()
    found = survey.unique(files, _WANTED)
    for prefix, (part, count) in SETS.items():
        for number in range(1, count + 1):
            name = f"{prefix}_{number}"
            image, label = (found.pop((prefix, str(number), kind), None) for kind in (None, "_anno"))
            survey.pair(name, part, image, label, f"{name}.bmp and {name}_anno.bmp")
    for path in found.values():
        survey.problem(EXTRA, path.name)
    return survey


def _write(case: Case, staging: Staging) -> list[str]:
    assert case.label is not None
    image, mask = read_rgb(case.image), read_mask(case.label) > 0  # instance ids in the archive
    check_same_size(image, mask, case.name)
    if staging.size:
        image, mask = resize(image, staging.size), resize_mask(mask, staging.size)
    write_png(image, staging.image(case.part, case.name))
    write_png(mask, staging.label(case.part, case.name))
    return [case.name]


BENCHMARK = Benchmark(
    name="glas",
    dataset="GlaS",
    number=227,
    title="GlaS (Warwick-QU)",
    example="train_1.bmp with train_1_anno.bmp",
    wanted=_WANTED,
    survey=_survey,
    write=_write,
    channels=["R", "G", "B"],
    labels={"background": 0, "gland": 1},
    ending=".png",
    protocol="85 training pictures, 80 test pictures (60 of test A, 20 of test B); any gland against background",
    licence="research use only, no commercial use",
    reference="Sirinukunwattana et al., Gland segmentation in colon histology images: The GlaS challenge contest, "
    "Medical Image Analysis 2017",
    resizable=True,
)
