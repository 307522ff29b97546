"""Files that were cut off or damaged, in every format that nnU-Net reads: read whole or refused by name."""

import subprocess
import sys

import numpy as np
import pytest
import SimpleITK
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image

from nnunetv2_selfreg.reading import UnreadableError, read_images, read_labels

NOISE = np.random.default_rng(0).integers(1, 1000, (9, 16, 14), np.int16)
BLOB = np.zeros((9, 16, 14), np.uint8)
BLOB[3:6, 4:10, 5:9] = 1
COLOURS = np.random.default_rng(0).integers(1, 256, (30, 21, 3), np.uint8)


def itk(path, array, compressed=True):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path), compressed)


def plain_in_gz(path, array):
    """A NIfTI file that is not compressed although its name says so, which SimpleITK and nnU-Net take."""
    itk(path.with_name("plain.nii"), array)
    path.with_name("plain.nii").rename(path)


def nnunet(path, array):
    Tiff3DIO().write_seg(array, str(path), {"spacing": (1, 1, 1)})


def pages(path, array):
    first, *rest = (Image.fromarray(page) for page in array)
    first.save(path, save_all=True, append_images=rest)


def picture(path, array):
    Image.fromarray(array).save(path)


def lzw(path, array):
    Image.fromarray(array).save(path, compression="tiff_lzw")


VOLUMES = [
    (SimpleITKIO, ".nii.gz", itk),
    (SimpleITKIO, ".nii.gz", plain_in_gz),
    (SimpleITKIO, ".nii", itk),
    (SimpleITKIOWithReorient, ".nii.gz", itk),
    (SimpleITKIO, ".nrrd", itk),
    (SimpleITKIO, ".mha", itk),
    (SimpleITKIO, ".gipl", itk),
    (NibabelIO, ".nii.gz", itk),
    (NibabelIO, ".nii", itk),
    (NibabelIOWithReorient, ".nii.gz", itk),
    (Tiff3DIO, ".tif", nnunet),
    (Tiff3DIO, ".tiff", pages),
]
PICTURES = [(NaturalImage2DIO, ".png", picture), (NaturalImage2DIO, ".bmp", picture), (NaturalImage2DIO, ".tif", lzw)]
CASES = [(*file, array) for file in VOLUMES for array in (NOISE, BLOB)]
CASES += [(*file, array) for file in PICTURES for array in (COLOURS, BLOB[4])]


def as_read(reader, array):
    """What nnU-Net's reader gives of an array, without axes of size 1."""
    if array is COLOURS:
        return array.transpose(2, 0, 1)
    return array[:, ::-1, ::-1] if "Reorient" in reader.__name__ else array  # from LPS to RAS


@pytest.mark.parametrize(
    ("reader", "ending", "write", "array"),
    CASES,
    ids=[f"{r.__name__}{e}-{w.__name__}-{a.dtype}" for r, e, w, a in CASES],
)
def test_a_file_that_was_cut_off_anywhere_is_refused_or_has_all_its_voxels(reader, ending, write, array, tmp_path):
    whole, cut = tmp_path / f"whole{ending}", tmp_path / f"cut{ending}"
    write(whole, array)
    values = read_images(reader(), [whole])[0]
    assert np.array_equal(values.squeeze(), as_read(reader, array))
    content = whole.read_bytes()
    lengths = {*range(0, len(content), max(1, len(content) // 30)), *range(len(content) - 12, len(content))}
    taken, said = [], set()
    for length in sorted(lengths):
        cut.write_bytes(content[:length])
        for read in (lambda: read_images(reader(), [cut])[0], lambda: read_labels(reader(), cut)[0]):
            try:
                assert np.array_equal(read(), values), length
                taken.append(len(content) - length)
            except UnreadableError as error:
                said.add(str(error))
    assert all(line.startswith(f"{cut} cannot be read: ") and "\n" not in line for line in said)
    # gzip files say where they end; a picture may lack its padding or the check sum of its (empty) last part
    assert max(taken, default=0) <= (0 if content.startswith(b"\x1f\x8b") else 12)


@pytest.mark.parametrize(("ending", "write"), [(".nii.gz", itk), (".png", picture)])
def test_a_damaged_file_is_refused(ending, write, tmp_path):
    whole, damaged = tmp_path / f"whole{ending}", tmp_path / f"damaged{ending}"
    reader = SimpleITKIO() if write is itk else NaturalImage2DIO()
    write(whole, NOISE if write is itk else COLOURS)
    content, refused = whole.read_bytes(), 0
    places = range(20, len(content), 31)  # behind gzip's own header, which holds a name and a time
    for place in places:
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        with pytest.raises(UnreadableError, match=r"damaged\.\w+.* cannot be read: "):
            read_labels(reader, damaged)
        refused += 1
    assert refused > 20


@pytest.mark.parametrize(("ending", "value"), [(".nii.gz", np.nan), (".nii.gz", np.inf), (".mha", -np.inf)])
def test_values_that_are_not_finite_are_refused_with_the_file_that_holds_them(ending, value, tmp_path):
    paths = [tmp_path / f"case_000{channel}{ending}" for channel in range(3)]
    for channel, path in enumerate(paths):
        array = NOISE.astype(np.float32)
        array[2, 3, 4] = value if channel == 1 else 0
        itk(path, array)
    with pytest.raises(UnreadableError, match=r"case_0001\.\S+ cannot be read: it holds NaN or infinite values$"):
        read_images(SimpleITKIO(), paths)


def test_of_several_images_the_one_that_cannot_be_read_is_named(tmp_path, capsys):
    paths = [tmp_path / f"case_000{channel}.mha" for channel in range(3)]
    for path in paths:
        itk(path, NOISE)
    paths[2].write_bytes(paths[2].read_bytes()[:-9])
    with pytest.raises(UnreadableError, match=r"case_0002\.mha cannot be read"):
        read_images(SimpleITKIO(), paths)
    itk(paths[2], NOISE[1:])
    with pytest.raises(UnreadableError, match=r"case_0000\.mha cannot be read: it differs in shape or spacing from"):
        read_images(SimpleITKIO(), paths)
    assert capsys.readouterr().out == ""


def test_nan_in_a_reference_is_no_background(tmp_path):
    array = BLOB.astype(np.float64)
    array[0, 0, 0] = np.nan
    itk(tmp_path / "case.nii.gz", array)
    with pytest.raises(UnreadableError, match="it holds NaN"):
        read_labels(SimpleITKIO(), tmp_path / "case.nii.gz")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnreadableError, match=r"nothing\.nii\.gz cannot be read: No such file or directory$"):
        read_labels(SimpleITKIO(), tmp_path / "nothing.nii.gz")


def test_a_volume_that_a_full_disk_cuts_off_is_no_success(tmp_path):
    program = """
import resource, sys
from pathlib import Path
import numpy as np, SimpleITK
from nnunetv2_selfreg.reading import write_nifti
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # bytes of a file; a write beyond fails as on a full disk
volume = SimpleITK.GetImageFromArray(np.random.default_rng(0).integers(0, 255, (9, 30, 30), np.uint8))
try:
    write_nifti(volume, Path(sys.argv[1]))
except OSError as error:
    sys.exit(str(error))
"""
    path = tmp_path / "case.nii.gz"
    run = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "case.nii.gz was not written whole, as happens on a full disk"
