"""GlaS: colon glands in H&E, 85 pictures to train and 80 to test (60 of test A, 20 of test B)."""

import re
from dataclasses import replace
from functools import partial

from nnunetv2_selfreg.benchmarks.benchmark import Benchmark, sort_listed
from nnunetv2_selfreg.benchmarks.passed_on import passed_on
from nnunetv2_selfreg.benchmarks.pictures import write_picture
from nnunetv2_selfreg.benchmarks.protocol import NATIVE, SMALL, Protocol
from nnunetv2_selfreg.benchmarks.published import AT_224, BASELINE, LATER, OF_PICTURES, OF_PIXELS, PAPER, RERUN, rows

TRAIN = [f"train_{number}" for number in range(1, 86)]
TEST_A = 60
TEST = [f"testA_{number}" for number in range(1, TEST_A + 1)] + [f"testB_{number}" for number in range(1, 21)]

_OF_TEST_A = """a third party's rerun; its image size and its definition of pixel accuracy are not known; taken here \
as the share of pixels that are right"""
_SOME_PAPERS = "later papers that print it beside other methods"
_NOT_CHECKED = "who ran it, and at which image size, was not checked here"
RESIZED = "masks resized by instance id"  # what dataset.json and the tables call these reference masks
_ABOUT_RESIZED = """Reference masks: resized by instance id, as the published loader does. Those of older conversions \
have glands larger by a thin rim, and a table of their own (documentation/datasets.md)"""
_ABOUT_OTHERS = """Reference masks: at 224 x 224 not known to be resized by instance id, as the published loader does; \
those of older conversions have glands larger by a thin rim (documentation/datasets.md)"""
_MASKS = {RESIZED: _ABOUT_RESIZED, None: _ABOUT_OTHERS}
_GLAS = Protocol(
    title="GlaS",
    dataset="glas",
    split="80 test images (test A and B)",
    classes=("gland",),
    metrics=OF_PICTURES,
    folds=5,
    cases=80,
    clusters=80,
    sizes=(NATIVE,),
)
PROTOCOLS = {
    "glas": _GLAS,
    "glas224": replace(
        _GLAS,
        sizes=(SMALL,),
        masks=_MASKS,
        published=rows(
            f"""
            U-Net            | dice | 85.45 | {PAPER} | {BASELINE}
            SelfReg-UNet     | dice | 90.93 | {PAPER} | {AT_224}
            SelfReg-SwinUnet | dice | 91.62 | {PAPER} | {AT_224}
            InceptionMamba   | dice | 91.88 | Kareem et al., InceptionMamba, arXiv 2506.12208 | {LATER}
            UCTransNet       | dice | 90.18 | Wang et al., UCTransNet, AAAI 2022, arXiv 2109.04335 | {LATER}
            nnU-Net v2       | dice | 89.71 | {_SOME_PAPERS} | {_NOT_CHECKED}
            """
        ),
    ),
    "glas_test_a": replace(
        _GLAS,
        title="GlaS test A",
        split="60 images of test A",
        metrics=OF_PIXELS,
        folds=None,
        cases=60,
        clusters=60,
        subset=r"testA_\d+",
        sizes=(NATIVE, SMALL),
        masks=_MASKS,
        published=rows(f"SelfReg-UNet | pixel_accuracy | 89.36 | {RERUN} | {_OF_TEST_A}"),
    ),
}


def _name_in_copy(match: "re.Match[str]") -> str:
    """The archive's name for a picture that the copy calls by a number: of the tests the first 60 are test A."""
    number = int(match["name"])
    if match["part"] != "Test":
        return f"train_{number}"
    return f"testA_{number}" if number <= TEST_A else f"testB_{number - TEST_A}"


_ARCHIVE = Benchmark(
    _GLAS,
    dataset="GlaS",
    number=227,
    example="train_1.bmp with train_1_anno.bmp",
    wanted=re.compile(r"(?:^|/)(?P<name>(?:train|testA|testB)_\d+)(?P<label>_anno)?\.(?i:bmp|png)$"),
    templates=("{}.bmp", "{}_anno.bmp"),
    sort=partial(sort_listed, train=TRAIN, test=TEST, others=0),
    write=partial(write_picture, foreground=lambda instances, _: instances > 0, resizes_values=True),
    description="85 training pictures, 80 test pictures (60 of test A, 20 of test B); any gland against background",
    licence="research use only, no commercial use",
    reference="Sirinukunwattana et al., Gland segmentation in colon histology images: The GlaS challenge contest, "
    "Medical Image Analysis 2017",
    resizable=True,
    masks="annotations of the archive",
    masks_resized=RESIZED,
)
_COPY = passed_on(
    _ARCHIVE,
    names=r"\d+",
    example="1.png",
    description="the copy that papers pass on: 85 training pictures (Train_Folder and Val_Folder), 80 test pictures "
    "(60 of test A, 20 of test B)",
    train=TRAIN,
    test=TEST,
    name=_name_in_copy,
)
BENCHMARK = replace(_ARCHIVE, layouts=(_COPY,))
