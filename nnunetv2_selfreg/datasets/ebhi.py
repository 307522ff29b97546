"""EBHI-Seg: enteroscope biopsies in H&E, the 795 pictures of its adenocarcinoma class."""

import re
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_selfreg.datasets.benchmark import EXTRA, MISMATCHING, Benchmark, Case, CaseError, Part, Staging, Survey
from nnunetv2_selfreg.datasets.pictures import binary, check_same_size, read_mask, read_rgb, write_png
from nnunetv2_selfreg.datasets.splitting import SEED, drawn_for_test

PICTURES = 795
SIZE = (224, 224)

_WANTED = re.compile(r"(?:^|/)adenocarcinoma/(image|label)/([^/]+)\.png$", re.IGNORECASE)


def _survey(files: Sequence[Path]) -> Survey:
    survey = Survey()
    found = survey.unique(files, _WANTED)
    images, labels = (
        {str(name): path for (kind, name), path in found.items() if kind and kind.lower() == which}
        for which in ("image", "label")
    )
    names = images.keys() | labels.keys()
    test = drawn_for_test(names)
    for name in sorted(names):
        part: Part = "test" if name in test else "train"
        survey.pair(name, part, images.get(name), labels.get(name), f"image/{name}.png and label/{name}.png")
    if len(names) < PICTURES:
        lack = f"{PICTURES - len(names)} of {PICTURES} pictures (their names are not published)"
        survey.lacks("train or test", lack)
    elif len(names) > PICTURES:
        survey.problem(EXTRA, f"{len(names) - PICTURES} pictures over {PICTURES}")
    return survey


def _write(case: Case, staging: Staging) -> list[str]:
    assert case.label is not None
    image, mask = read_rgb(case.image), read_mask(case.label)
    check_same_size(image, mask, case.name)
    if mask.shape != SIZE:
        raise CaseError(MISMATCHING, f"{case.image.name} ({mask.shape[1]}x{mask.shape[0]}, not 224x224)")
    tumour = binary(mask, case.label)
    write_png(image, staging.image(case.part, case.name))
    write_png(tumour, staging.label(case.part, case.name))
    return [case.name]


BENCHMARK = Benchmark(
    name="ebhi",
    dataset="EBHI",
    number=527,
    title="EBHI-Seg",
    example="EBHI-SEG/Adenocarcinoma/image/NAME.png with ../label/NAME.png",
    wanted=_WANTED,
    survey=_survey,
    write=_write,
    channels=["R", "G", "B"],
    labels={"background": 0, "adenocarcinoma": 1},
    ending=".png",
    protocol=f"the 795 pictures of the class adenocarcinoma; 80/20 split by picture, drawn with seed {SEED} as none "
    "was published",
    licence="CC BY 4.0",
    reference="Shi et al., EBHI-Seg: A novel enteroscope biopsy histopathological hematoxylin and eosin image dataset "
    "for image segmentation tasks, Frontiers in Medicine 2023",
)
