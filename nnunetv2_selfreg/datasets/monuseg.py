"""MoNuSeg: nuclei of several organs in H&E, 30 pictures to train and 14 to test.

The annotations are polygons in Aperio's XML. Its coordinates have their origin at the upper left corner of the upper
left pixel, so the pixel in row r and column c has its centre at x = c + 0.5, y = r + 0.5. A pixel belongs to a polygon
when its centre lies inside by the even-odd rule, which settles polygons that cross themselves (what is enclosed twice
lies outside), on an edge that parts inside from outside, or on a corner, as far as rounding tells. Polygons may reach
beyond the picture; those of fewer than three corners enclose nothing and are skipped. The foreground is the union. Of
instances that overlap, the later in the file wins.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree.ElementTree import ParseError

import numpy as np
from numpy.typing import NDArray

from nnunetv2_selfreg.datasets.benchmark import (
    EXTRA,
    MISMATCHING,
    UNREADABLE,
    Benchmark,
    Case,
    CaseError,
    Part,
    Staging,
    Survey,
)
from nnunetv2_selfreg.datasets.pictures import read_rgb, resize, resize_mask, write_png
from nnunetv2_selfreg.errors import SelfRegError

TRAIN = """
    TCGA-18-5592-01Z-00-DX1 TCGA-21-5784-01Z-00-DX1 TCGA-21-5786-01Z-00-DX1 TCGA-38-6178-01Z-00-DX1
    TCGA-49-4488-01Z-00-DX1 TCGA-50-5931-01Z-00-DX1 TCGA-A7-A13E-01Z-00-DX1 TCGA-A7-A13F-01Z-00-DX1
    TCGA-AR-A1AK-01Z-00-DX1 TCGA-AR-A1AS-01Z-00-DX1 TCGA-AY-A8YK-01A-01-TS1 TCGA-B0-5698-01Z-00-DX1
    TCGA-B0-5710-01Z-00-DX1 TCGA-B0-5711-01Z-00-DX1 TCGA-CH-5767-01Z-00-DX1 TCGA-DK-A2I6-01A-01-TS1
    TCGA-E2-A14V-01Z-00-DX1 TCGA-E2-A1B5-01Z-00-DX1 TCGA-G2-A2EK-01A-02-TSB TCGA-G9-6336-01Z-00-DX1
    TCGA-G9-6348-01Z-00-DX1 TCGA-G9-6356-01Z-00-DX1 TCGA-G9-6362-01Z-00-DX1 TCGA-G9-6363-01Z-00-DX1
    TCGA-HE-7128-01Z-00-DX1 TCGA-HE-7129-01Z-00-DX1 TCGA-HE-7130-01Z-00-DX1 TCGA-KB-A93J-01A-01-TS1
    TCGA-NH-A8F7-01A-01-TS1 TCGA-RD-A8N9-01A-01-TS1
""".split()
TEST = """
    TCGA-2Z-A9J9-01A-01-TS1 TCGA-44-2665-01B-06-BS6 TCGA-69-7764-01A-01-TS1 TCGA-A6-6782-01A-01-BS1
    TCGA-AC-A2FO-01A-01-TS1 TCGA-AO-A0J2-01A-01-BSA TCGA-CU-A0YN-01A-02-BSB TCGA-EJ-A46H-01A-03-TSC
    TCGA-FG-A4MU-01B-01-TS1 TCGA-GL-6846-01A-01-BS1 TCGA-HC-7209-01A-01-TS1 TCGA-HT-8564-01Z-00-DX1
    TCGA-IZ-8196-01A-01-BS1 TCGA-ZF-A9R5-01A-01-TS1
""".split()
OTHERS = 7  # of the 37 pictures in the training archive since 2018
SIZE = (1000, 1000)

Polygon = NDArray[np.float64]

_WANTED = re.compile(r"(?:^|/)(TCGA(?:-[A-Z0-9]+)+)\.(?:(tiff?)|xml)$")


def read_polygons(path: Path) -> list[Polygon]:
    """Reads the regions of an Aperio annotation.

    Args:
        path: The XML file: Annotations/Annotation/Regions/Region/Vertices/Vertex with X and Y.

    Returns:
        The corners of each polygon in the file's order, (corners, 2), x and y in pixels.

    Raises:
        CaseError: It is no such file, has a document type or entities, or a coordinate is no finite number.
        SelfRegError: defusedxml is not installed.
    """
    try:
        from defusedxml.common import DefusedXmlException
        from defusedxml.ElementTree import parse
    except ImportError:
        raise SelfRegError('defusedxml is not installed: pip install "nnunetv2-selfreg[leaderboard]"') from None
    try:
        root = parse(path, forbid_dtd=True).getroot()
        regions = root.findall("Annotation/Regions/Region")
        polygons = [
            np.array([(float(vertex.attrib["X"]), float(vertex.attrib["Y"])) for vertex in region.iter("Vertex")])
            for region in regions
        ]
    except (ParseError, DefusedXmlException, KeyError, ValueError, OSError) as error:
        raise CaseError(UNREADABLE, f"{path.name} ({type(error).__name__}: {str(error).splitlines()[0]})") from None
    if root.tag != "Annotations" or not polygons or not all(np.isfinite(polygon).all() for polygon in polygons):
        raise CaseError(UNREADABLE, f"{path.name} (no polygons of an Aperio annotation)")
    return [polygon.reshape(-1, 2) for polygon in polygons]


def fill(polygons: Iterable[Polygon], shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Fills polygons by the rule at the top of this module.

    Args:
        polygons: Corners, (corners, 2), x and y in pixels; those of fewer than three are skipped.
        shape: Rows and columns.

    Returns:
        (rows, columns): 0, or the polygon's number, counted from 1 over all that are given.
    """
    from skimage.draw import polygon as pixels_inside

    instances = np.zeros(shape, np.uint16)
    for number, corners in enumerate(polygons, 1):
        if len(corners) >= 3:
            # scikit-image counts coordinates from pixel centres
            instances[pixels_inside(corners[:, 1] - 0.5, corners[:, 0] - 0.5, shape)] = number
    return instances


def _survey(files: Sequence[Path]) -> Survey:
    survey = Survey()
    found = {(name, bool(tif)): path for (name, tif), path in survey.unique(files, _WANTED).items()}
    parts: tuple[tuple[Part, list[str]], ...] = (("train", TRAIN), ("test", TEST))
    for part, names in parts:
        for name in names:
            image, label = found.pop((name, True), None), found.pop((name, False), None)
            survey.pair(name, part, image, label, f"{name}.tif and {name}.xml")
    others = sorted({str(name) for name, _ in found})
    if len(others) > OTHERS:
        for name in others:
            survey.problem(EXTRA, name)
    elif others:
        survey.notes.append(f"left out {len(others)} pictures that are no part of this protocol: {', '.join(others)}")
    return survey


def _write(case: Case, staging: Staging) -> list[str]:
    assert case.label is not None
    image = read_rgb(case.image)
    if image.shape[:2] != SIZE:
        raise CaseError(MISMATCHING, f"{case.image.name} ({image.shape[1]}x{image.shape[0]}, not 1000x1000)")
    polygons = read_polygons(case.label)
    instances = fill(polygons, SIZE)
    mask = instances > 0
    staging.counts["polygons of fewer than 3 corners skipped"] += sum(len(polygon) < 3 for polygon in polygons)
    if staging.size:
        image, mask = resize(image, staging.size), resize_mask(mask, staging.size)
    write_png(image, staging.image(case.part, case.name))
    write_png(mask, staging.label(case.part, case.name))
    if staging.instances:
        write_png(instances, staging.instance(case.part, case.name))
    return [case.name]


BENCHMARK = Benchmark(
    name="monuseg",
    dataset="MoNuSeg",
    number=327,
    title="MoNuSeg 2018's training and test archives",
    example="TCGA-18-5592-01Z-00-DX1.tif with TCGA-18-5592-01Z-00-DX1.xml",
    wanted=_WANTED,
    survey=_survey,
    write=_write,
    channels=["R", "G", "B"],
    labels={"background": 0, "nucleus": 1},
    ending=".png",
    protocol="30 training and 14 test pictures by name; any nucleus against background; a pixel is foreground when its "
    "centre lies in a polygon (even-odd, edges included)",
    licence="CC BY-NC-SA 4.0",
    reference="Kumar et al., A Multi-Organ Nucleus Segmentation Challenge, IEEE TMI 2020",
    resizable=True,
    instances=True,
)
