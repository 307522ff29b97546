"""Tiny archives in the exact layout and formats of the originals, and what the converter makes of them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from PIL import Image

from nnunetv2_selfreg.benchmarks.convert import main

SHARED = Path(__file__).parents[4] / "shared" / "data"

ACDC_TEST = "002 003 008 009 012 014 017 024 042 048 049 053 055 064 067 079 081 088 092 095".split()
SYNAPSE_TEST = "01 02 03 04 08 22 25 29 32 35 36 38".split()
SYNAPSE_TRAIN = "05 06 07 09 10 21 23 24 26 27 28 30 31 33 34 37 39 40".split()
MONUSEG_DX1 = """18-5592 E2-A14V E2-A1B5 G9-6363 HE-7129 21-5784 21-5786 38-6178 49-4488 50-5931 A7-A13E A7-A13F AR-A1AK
    AR-A1AS B0-5698 B0-5710 B0-5711 CH-5767 G9-6336 G9-6348 G9-6356 G9-6362 HE-7128 HE-7130""".split()
MONUSEG_TRAIN = [f"TCGA-{name}-01Z-00-DX1" for name in MONUSEG_DX1] + [
    f"TCGA-{name}"
    for name in (
        "AY-A8YK-01A-01-TS1",
        "DK-A2I6-01A-01-TS1",
        "G2-A2EK-01A-02-TSB",
        "KB-A93J-01A-01-TS1",
        "NH-A8F7-01A-01-TS1",
        "RD-A8N9-01A-01-TS1",
    )
]
MONUSEG_TEST = [
    f"TCGA-{name}"
    for name in """2Z-A9J9-01A-01-TS1 44-2665-01B-06-BS6 69-7764-01A-01-TS1 A6-6782-01A-01-BS1 AC-A2FO-01A-01-TS1
    AO-A0J2-01A-01-BSA CU-A0YN-01A-02-BSB EJ-A46H-01A-03-TSC FG-A4MU-01B-01-TS1 GL-6846-01A-01-BS1 HC-7209-01A-01-TS1
    HT-8564-01Z-00-DX1 IZ-8196-01A-01-BS1 ZF-A9R5-01A-01-TS1""".split()
]
MONUSEG_OTHERS = [f"TCGA-XX-{number:04d}-01Z-00-DX1" for number in range(7)]
# a square, a triangle that reaches beyond the picture, a crossing one, and one that encloses nothing
POLYGONS = [
    [(10, 20), (15, 20), (15, 24), (10, 24)],
    [(-3.5, 990.25), (6.1, 990.25), (-3.5, 1002)],
    [(100, 100), (110, 110), (110, 100), (100, 110)],
    [(50, 50), (60, 60)],
]


def write_volume(
    path: Path,
    array: NDArray[Any],
    spacing: tuple[float, ...] = (1.4, 1.5, 10),
    origin: tuple[float, ...] = (3, -4, 5),
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
) -> None:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


def volume(seed: int, values: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """An image and labels of (3, 4, 5) voxels in which every label below `values` occurs."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(60) % values).reshape(3, 4, 5)
    return rng.integers(-100, 1000, (3, 4, 5), np.int16), labels.astype(np.uint8)


def acdc(folder: Path, patients: Iterable[int] = range(1, 101)) -> Path:
    """`database/{training,testing}/patientNNN/`, with the 4D series and some of the test patients."""
    for number in [*patients, 101, 150]:
        part = "training" if number <= 100 else "testing"
        patient = folder / "database" / part / f"patient{number:03d}"
        patient.mkdir(parents=True)
        es = 8 + number % 5
        (patient / "Info.cfg").write_text(f"ED: 1\nES: {es}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")
        (patient / f"patient{number:03d}_4d.nii.gz").write_bytes(b"never read")
        for frame in (1, es):
            image, labels = volume(1000 * number + frame, 4)
            name = f"patient{number:03d}_frame{frame:02d}"
            write_volume(patient / f"{name}.nii.gz", image)
            write_volume(patient / f"{name}_gt.nii.gz", labels)
    return folder


def synapse(folder: Path) -> Path:
    """`RawData/Training/{img,label}`, all 14 values of BTCV in each, labels as float as a NIfTI may hold them."""
    for number in [*range(1, 11), *range(21, 41)]:
        image, labels = volume(number, 14)
        training = folder / "RawData" / "Training"
        write_volume(training / "img" / f"img{number:04d}.nii.gz", image)
        write_volume(training / "label" / f"label{number:04d}.nii.gz", labels.astype(np.float32))
    write_volume(folder / "RawData" / "Testing" / "img" / "img0061.nii.gz", image)
    return folder


def glas(folder: Path) -> Path:
    """Flat BMP files with instance ids, and the archive's table."""
    flat = folder / "Warwick QU Dataset (Released 2016_07_08)"
    flat.mkdir(parents=True)
    (flat / "Grade.csv").write_text("name, patient ID, grade (GlaS)\n")
    for prefix, count in (("train", 85), ("testA", 60), ("testB", 20)):
        for number in range(1, count + 1):
            rng = np.random.default_rng([number, count])
            name = f"{prefix}_{number}"
            Image.fromarray(rng.integers(0, 256, (12, 18, 3), np.uint8)).save(flat / f"{name}.bmp")
            Image.fromarray(rng.integers(0, 4, (12, 18), np.uint8)).save(flat / f"{name}_anno.bmp")
    return folder


def aperio(path: Path, polygons: Iterable[Iterable[tuple[float, float]]]) -> None:
    regions = "".join(
        f'<Region Id="{number}" Type="0" Zoom="1" NegativeROA="0"><Attributes/><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in polygon)
        + "</Vertices></Region>"
        for number, polygon in enumerate(polygons, 1)
    )
    path.write_text(
        '<Annotations MicronsPerPixel="0.252000"><Annotation Id="1" Name="" Type="4"><Attributes/><Regions>'
        f'<RegionAttributeHeaders><AttributeHeader Id="9999" Name="Region"/></RegionAttributeHeaders>{regions}'
        "</Regions><Plots/></Annotation></Annotations>"
    )


def monuseg(folder: Path) -> Path:
    """The two zips unpacked, with the seven pictures of no protocol and what a Mac puts into a zip."""
    training, test = folder / "MoNuSeg 2018 Training Data", folder / "MoNuSegTestData"
    for place in (training / "Tissue Images", training / "Annotations", test, folder / "__MACOSX" / training.name):
        place.mkdir(parents=True)
    for index, name in enumerate([*MONUSEG_TRAIN, *MONUSEG_OTHERS, *MONUSEG_TEST]):
        images, annotations = (test, test) if name in MONUSEG_TEST else training.iterdir()
        if images.name == "Annotations":
            images, annotations = annotations, images
        picture = np.full((1000, 1000, 3), (200, index, 150), np.uint8)
        Image.fromarray(picture).save(images / f"{name}.tif", compression="tiff_lzw")
        aperio(annotations / f"{name}.xml", POLYGONS)
        (annotations / f"._{name}.xml").write_bytes(b"\0\5\x16\7")
        (folder / "__MACOSX" / training.name / f"._{name}.tif").write_bytes(b"\0\5\x16\7")
        (folder / "__MACOSX" / training.name / f"{name}.tif").write_bytes(b"\0\5\x16\7")
    return folder


def pass_on(folder: Path, part: str, name: str, ending: str, picture: NDArray[Any], mask: NDArray[Any]) -> None:
    """Writes a picture and its mask as the papers' copies have them: `{Train,Val,Test}_Folder/{img,labelcol}`."""
    for kind in ("img", "labelcol"):
        (folder / f"{part}_Folder" / kind).mkdir(parents=True, exist_ok=True)
    lossless = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(picture).save(folder / f"{part}_Folder" / "img" / f"{name}.{ending}", **lossless)
    Image.fromarray(mask).save(folder / f"{part}_Folder" / "labelcol" / f"{name}.png")


def glas_passed_on(folder: Path) -> Path:
    """Numbered pictures of every format in turn, masks of instance ids: 68 train, 17 validate, 80 test."""
    for part, numbers in (("Train", range(1, 69)), ("Val", range(69, 86)), ("Test", range(1, 81))):
        for number in numbers:
            rng = np.random.default_rng([number, len(part)])
            picture, mask = rng.integers(0, 256, (12, 18, 3), np.uint8), rng.integers(0, 6, (12, 18), np.uint8)
            pass_on(folder / "GlaS", part, str(number), ("png", "tif", "webp")[number % 3], picture, mask)
    return folder


def monuseg_passed_on(folder: Path) -> Path:
    """The copy's 24, 6 and 14 pictures, masks of one bit as it has them."""
    validation = [*MONUSEG_TRAIN[:5], MONUSEG_TRAIN[24]]
    for index, name in enumerate([*MONUSEG_TRAIN, *MONUSEG_TEST]):
        part = "Test" if name in MONUSEG_TEST else "Val" if name in validation else "Train"
        mask = np.zeros((1000, 1000), bool)
        mask[20 : 24 + index, 10:15] = True
        pass_on(folder, part, name, "webp", np.full((1000, 1000, 3), (200, index, 150), np.uint8), mask)
    return folder


def large_picture(seed: int, rows: int, columns: int) -> NDArray[np.uint8]:
    """Coarse noise, which JPEG keeps well and quickly."""
    coarse = np.random.default_rng(seed).integers(0, 256, (rows // 64 + 1, columns // 64 + 1, 3), np.uint8)
    return coarse.repeat(64, 0).repeat(64, 1)[:rows, :columns]


def digestpath(folder: Path, large: int = 5, pictures: int = 660) -> Path:
    """JPEG files in folders of positives and negatives; the first ones give patches, the others are small."""
    positive, negative = folder / "tissue-train-pos-v1", folder / "tissue-train-neg"
    positive.mkdir(parents=True)
    negative.mkdir()
    for number in range(pictures):
        shape = (1536, 2100) if number < large else (16, 24)
        place = positive if number < large or number % 3 == 0 else negative
        name = f"2019_{number:05d}_1-1"
        Image.fromarray(large_picture(number, *shape)).save(place / f"{name}.jpg", quality=95)
        if place is positive:
            mask = np.zeros(shape, np.uint8)
            mask[:12, :12] = 255  # 144 pixels, which only the leftmost patch holds
            Image.fromarray(mask).save(place / f"{name}_mask.jpg", quality=95)
    return folder


def ebhi(folder: Path, pictures: int = 795) -> Path:
    """Classes in folders; only one is of use."""
    for kind in ("Adenocarcinoma", "Polyp"):
        for which in ("image", "label"):
            (folder / "EBHI-SEG" / kind / which).mkdir(parents=True)
        for number in range(pictures if kind == "Adenocarcinoma" else 2):
            name = f"GT2012{number:03d}-1-400-001.png"
            picture = np.full((224, 224, 3), (number % 256, number // 256, 90), np.uint8)
            mask = np.zeros((224, 224), np.uint8)
            mask[: 10 + number % 100, :50] = 255
            Image.fromarray(picture).save(folder / "EBHI-SEG" / kind / "image" / name)
            Image.fromarray(mask).save(folder / "EBHI-SEG" / kind / "label" / name)
    return folder


BUILDERS = {"acdc": acdc, "synapse": synapse, "glas": glas, "monuseg": monuseg, "digestpath": digestpath, "ebhi": ebhi}
BUILDERS |= {"glas_passed_on": glas_passed_on, "monuseg_passed_on": monuseg_passed_on}


def convert(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def names(folder: Path) -> list[str]:
    """What is in a folder; nothing where it is missing, as a refused conversion leaves no folder that it made."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def benchmark_entry(dataset: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((dataset / "dataset.json").read_text())["benchmark"]
    return content


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
