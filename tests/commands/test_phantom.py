import json

import numpy as np
import pytest
import SimpleITK

from nnunetv2_selfreg.commands import phantom
from nnunetv2_selfreg.commands.phantom import LABELS, case_name, make_phantom, write_dataset

CASES = [(seed, number) for seed in (0, 7) for number in (1, 2, 3, 11, 25)]


def test_a_case_depends_on_its_seed_and_number_only():
    first = make_phantom(3, 4)
    make_phantom(3, 5)
    again = make_phantom(3, 4)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.labels.tobytes() == again.labels.tobytes()
    assert first.spacing == again.spacing


@pytest.mark.parametrize("other", [(3, 5), (4, 4), (4, 3)])
def test_another_seed_or_number_is_another_case(other):
    assert make_phantom(3, 4).image.tobytes() != make_phantom(*other).image.tobytes()


@pytest.mark.parametrize(("seed", "number"), CASES)
def test_voxels_are_anisotropic_and_labelled_one_by_one(seed, number):
    case = make_phantom(seed, number)
    assert case.image.shape == case.labels.shape
    assert case.image.dtype == np.int16
    assert case.image.min() >= 0
    slices, rows, columns = case.spacing
    assert rows == columns
    assert slices > 3 * rows


@pytest.mark.parametrize(("seed", "number"), CASES)
def test_all_classes_are_there_and_myocardium_encloses_the_lv(seed, number):
    labels = make_phantom(seed, number).labels
    assert set(np.unique(labels)) == set(LABELS.values())
    middle = len(labels) // 2
    for axial in labels[middle - 1 : middle + 1]:
        lv = axial == LABELS["LV"]
        assert lv.any()
        around = np.zeros_like(lv)
        for axis in (0, 1):
            for step in (-1, 1):
                around |= np.roll(lv, step, axis)
        assert set(np.unique(axial[around & ~lv])) == {LABELS["myocardium"]}


@pytest.mark.parametrize(("seed", "number"), CASES)
def test_the_heart_gets_smaller_towards_the_apex_and_lies_inside_the_image(seed, number):
    labels = make_phantom(seed, number).labels
    left = (labels >= LABELS["myocardium"]).sum((1, 2))
    assert left[-1] < 0.6 * left[0]
    border = np.ones(labels.shape[1:], bool)
    border[1:-1, 1:-1] = False
    assert not (labels[:, border] >= LABELS["myocardium"]).any()


def test_blood_is_brighter_than_myocardium():
    case = make_phantom(0, 1)
    blood, muscle = (np.median(case.image[case.labels == LABELS[name]]) for name in ("LV", "myocardium"))
    assert blood > 1.3 * muscle


def test_the_data_set_is_what_nnunet_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom, "TRAINING_CASES", range(1, 3))
    monkeypatch.setattr(phantom, "UNSEEN_CASES", range(3, 4))
    folder = write_dataset(tmp_path, 5)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == [
        "dataset.json",
        "imagesTr/phantom_001_0000.nii.gz",
        "imagesTr/phantom_002_0000.nii.gz",
        "imagesTs/phantom_003_0000.nii.gz",
        "labelsTr/phantom_001.nii.gz",
        "labelsTr/phantom_002.nii.gz",
        "labelsTs/phantom_003.nii.gz",
    ]
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["labels"] == {"background": 0, "RV": 1, "myocardium": 2, "LV": 3}
    assert dataset["channel_names"] == {"0": "cineMRI"}
    assert dataset["numTraining"] == 2
    assert dataset["file_ending"] == ".nii.gz"

    image = SimpleITK.ReadImage(str(folder / "imagesTr" / "phantom_002_0000.nii.gz"))
    labels = SimpleITK.ReadImage(str(folder / "labelsTr" / f"{case_name(2)}.nii.gz"))
    case = make_phantom(5, 2)
    assert image.GetSpacing() == pytest.approx(case.spacing[::-1])
    assert (SimpleITK.GetArrayFromImage(image) == case.image).all()
    assert (SimpleITK.GetArrayFromImage(labels) == case.labels).all()
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(image, get)() == getattr(labels, get)()
