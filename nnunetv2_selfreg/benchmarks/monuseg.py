"""MoNuSeg: nuclei of several organs in H&E, 30 pictures to train and 14 to test.

The annotations are polygons in Aperio's XML. Its coordinates have their origin at the upper left corner of the upper
left pixel, so the pixel in row r and column c has its centre at x = c + 0.5, y = r + 0.5. A pixel belongs to a polygon
when its centre lies inside by the even-odd rule, which settles polygons that cross themselves (what is enclosed twice
lies outside), on an edge that parts inside from outside, or on a corner, as far as rounding tells. Polygons may reach
beyond the picture; those of fewer than three corners enclose nothing and are skipped. The foreground is the union. Of
instances that overlap, the later in the file wins.

The published numbers are scored on other masks: those of the copy that their papers pass on.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import ParseError

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nnunetv2_selfreg.benchmarks.benchmark import ArchiveCase, Benchmark, CaseError, Staging, sort_listed
from nnunetv2_selfreg.benchmarks.passed_on import PASSED_ON, passed_on
from nnunetv2_selfreg.benchmarks.pictures import binary, read_rgb, write_pair, write_picture
from nnunetv2_selfreg.benchmarks.protocol import NATIVE, SMALL, Protocol
from nnunetv2_selfreg.benchmarks.published import AT_224, BASELINE, OF_PICTURES, PAPER, rows
from nnunetv2_selfreg.errors import SelfRegError

TRAIN = """
TCGA-18-5592-01Z-00-DX1 TCGA-21-5784-01Z-00-DX1 TCGA-21-5786-01Z-00-DX1 TCGA-38-6178-01Z-00-DX1 TCGA-49-4488-01Z-00-DX1
TCGA-50-5931-01Z-00-DX1 TCGA-A7-A13E-01Z-00-DX1 TCGA-A7-A13F-01Z-00-DX1 TCGA-AR-A1AK-01Z-00-DX1 TCGA-AR-A1AS-01Z-00-DX1
TCGA-AY-A8YK-01A-01-TS1 TCGA-B0-5698-01Z-00-DX1 TCGA-B0-5710-01Z-00-DX1 TCGA-B0-5711-01Z-00-DX1 TCGA-CH-5767-01Z-00-DX1
TCGA-DK-A2I6-01A-01-TS1 TCGA-E2-A14V-01Z-00-DX1 TCGA-E2-A1B5-01Z-00-DX1 TCGA-G2-A2EK-01A-02-TSB TCGA-G9-6336-01Z-00-DX1
TCGA-G9-6348-01Z-00-DX1 TCGA-G9-6356-01Z-00-DX1 TCGA-G9-6362-01Z-00-DX1 TCGA-G9-6363-01Z-00-DX1 TCGA-HE-7128-01Z-00-DX1
TCGA-HE-7129-01Z-00-DX1 TCGA-HE-7130-01Z-00-DX1 TCGA-KB-A93J-01A-01-TS1 TCGA-NH-A8F7-01A-01-TS1 TCGA-RD-A8N9-01A-01-TS1
""".split()
TEST = """
TCGA-2Z-A9J9-01A-01-TS1 TCGA-44-2665-01B-06-BS6 TCGA-69-7764-01A-01-TS1 TCGA-A6-6782-01A-01-BS1 TCGA-AC-A2FO-01A-01-TS1
TCGA-AO-A0J2-01A-01-BSA TCGA-CU-A0YN-01A-02-BSB TCGA-EJ-A46H-01A-03-TSC TCGA-FG-A4MU-01B-01-TS1 TCGA-GL-6846-01A-01-BS1
TCGA-HC-7209-01A-01-TS1 TCGA-HT-8564-01Z-00-DX1 TCGA-IZ-8196-01A-01-BS1 TCGA-ZF-A9R5-01A-01-TS1
""".split()
OTHERS = 7  # of the 37 pictures in the training archive since 2018
SIZE = (1000, 1000)

POLYGONS = "masks from the XML's polygons"
AGREEMENT = """on the four images of which both are at hand the two agree to 0.970 to 0.994 Dice, which is as much as \
the published methods differ (documentation/datasets.md)"""
OTHER_PICTURES = """Two training images of this copy, TCGA-21-5784-01Z-00-DX1 and TCGA-CH-5767-01Z-00-DX1, are other \
pictures than the archive's of these names"""

Polygon = NDArray[np.float64]

_NATIVE = Protocol(
    title="MoNuSeg",
    dataset="monuseg",
    split="14 test images",
    classes=("nucleus",),
    metrics=OF_PICTURES,
    folds=5,
    cases=14,
    clusters=14,
    sizes=(NATIVE,),
    published_on=PASSED_ON,
    masks={
        POLYGONS: "Reference masks: the polygons of the archive's XML. Published numbers are scored on other masks, "
        f"those that papers pass on, and do not stand here: {AGREEMENT}",
        PASSED_ON: "Reference masks: those that papers pass on and published numbers are scored on, not the polygons "
        f"of the archive's XML: {AGREEMENT}. {OTHER_PICTURES}",
    },
)
PROTOCOLS = {
    "monuseg": _NATIVE,
    "monuseg224": replace(
        _NATIVE,
        sizes=(SMALL,),
        published=rows(
            f"""
            U-Net        | dice | 76.45 | {PAPER} | {BASELINE}
            SelfReg-UNet | dice | 80.18 | {PAPER} | {AT_224}
            SelfReg-UNet | iou  | 67.07 | a public leaderboard | {AT_224}; listed beside a Dice of 80.18
            """
        ),
    ),
}


def read_polygons(path: Path) -> list[Polygon]:
    """Reads the regions of an Aperio annotation, (corners, 2) each, x and y in pixels, in the file's order."""
    try:
        from defusedxml.common import DefusedXmlException
        from defusedxml.ElementTree import parse
    except ImportError:
        raise SelfRegError(
            'defusedxml is not installed: pip install "/path/to/nnunetv2-selfreg[leaderboard]"'
        ) from None
    try:
        root = parse(path, forbid_dtd=True).getroot()
        polygons = [
            np.array([(vertex.attrib["X"], vertex.attrib["Y"]) for vertex in region.iter("Vertex")], float).reshape(
                -1, 2
            )
            for region in root.findall("Annotation/Regions/Region")
        ]
    except (ParseError, DefusedXmlException, KeyError, ValueError, OSError) as error:
        raise CaseError("unreadable", f"{path.name} ({type(error).__name__}: {str(error).splitlines()[0]})") from None
    if root.tag != "Annotations" or not polygons or not all(np.isfinite(polygon).all() for polygon in polygons):
        raise CaseError("unreadable", f"{path.name} (no polygons of an Aperio annotation)")
    return polygons


def fill(polygons: Iterable[Polygon], shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Fills polygons by the rule at the top of this module: (rows, columns), 0 or the polygon's number from 1."""
    from skimage.draw import polygon as pixels_inside

    instances = np.zeros(shape, np.uint16)
    for number, corners in enumerate(polygons, 1):
        if len(corners) >= 3:
            # scikit-image counts coordinates from pixel centres
            instances[pixels_inside(corners[:, 1] - 0.5, corners[:, 0] - 0.5, shape)] = number
    return instances


def _write(case: ArchiveCase, staging: Staging) -> None:
    assert case.label is not None
    image = read_rgb(case.image, SIZE)
    polygons = read_polygons(case.label)
    instances = fill(polygons, SIZE)
    staging.skipped["polygons of fewer than 3 corners skipped"] += sum(len(polygon) < 3 for polygon in polygons)
    write_pair(staging, case, image, instances > 0)
    if staging.instances:
        Image.fromarray(instances).save(staging.path("instances", case.part, case.name))


_ARCHIVE = Benchmark(
    _NATIVE,
    dataset="MoNuSeg",
    number=327,
    example="TCGA-18-5592-01Z-00-DX1.tif with TCGA-18-5592-01Z-00-DX1.xml",
    wanted=re.compile(r"(?:^|/)(?P<name>TCGA(?:-[A-Z0-9]+)+)\.(?:(?i:tiff?)|(?P<label>(?i:xml)))$"),
    templates=("{}.tif", "{}.xml"),
    sort=partial(sort_listed, train=TRAIN, test=TEST, others=OTHERS),
    write=_write,
    description="30 training and 14 test pictures by name; any nucleus against background; a pixel is foreground when "
    "its centre lies in a polygon (even-odd, edges included)",
    licence="CC BY-NC-SA 4.0",
    reference="Kumar et al., A Multi-Organ Nucleus Segmentation Challenge, IEEE TMI 2020",
    resizable=True,
    instances=True,
    masks=POLYGONS,
)
_COPY = passed_on(
    _ARCHIVE,
    names="TCGA(?:-[A-Z0-9]+)+",
    example=f"{TRAIN[1]}.png",
    description="the copy that papers pass on: 30 training (Train_Folder and Val_Folder) and 14 test pictures by name; "
    f"any nucleus against background. {OTHER_PICTURES}",
    train=TRAIN,
    test=TEST,
    write=partial(write_picture, foreground=binary, size=SIZE),
)
BENCHMARK = replace(_ARCHIVE, layouts=(_COPY,))
