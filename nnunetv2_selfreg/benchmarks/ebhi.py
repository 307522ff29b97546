"""EBHI-Seg: enteroscope biopsies in H&E, the 795 pictures of its adenocarcinoma class."""

import re
from functools import partial

from nnunetv2_selfreg.benchmarks.benchmark import SEED, Benchmark, sort_drawn
from nnunetv2_selfreg.benchmarks.pictures import binary, write_picture
from nnunetv2_selfreg.benchmarks.protocol import Protocol
from nnunetv2_selfreg.benchmarks.published import OF_PIXELS, RERUN, THIRD_PARTY, rows

PICTURES = 795
SIZE = (224, 224)

PROTOCOLS = {
    "ebhi": Protocol(
        title="EBHI-Seg",
        dataset="ebhi",
        split="validation part of a seeded 80/20 split of ours; the published split is not known",
        classes=("adenocarcinoma",),
        metrics=OF_PIXELS,
        published=rows(f"SelfReg-UNet | pixel_accuracy | 91.53 | {RERUN} | {THIRD_PARTY}"),
    )
}


BENCHMARK = Benchmark(
    PROTOCOLS["ebhi"],
    dataset="EBHI",
    number=527,
    example="EBHI-SEG/Adenocarcinoma/image/NAME.png with ../label/NAME.png",
    wanted=re.compile(r"(?:^|/)adenocarcinoma/(?:image|(?P<label>label))/(?P<name>[^/]+)\.png$", re.IGNORECASE),
    templates=("image/{}.png", "label/{}.png"),
    sort=partial(sort_drawn, count=PICTURES),
    write=partial(write_picture, foreground=binary, size=SIZE),
    description=f"the 795 pictures of the class adenocarcinoma; 80/20 split by picture, drawn with seed {SEED} as none "
    "was published",
    licence="CC BY 4.0",
    reference="Shi et al., EBHI-Seg: A novel enteroscope biopsy histopathological hematoxylin and eosin image dataset "
    "for image segmentation tasks, Frontiers in Medicine 2023",
)
