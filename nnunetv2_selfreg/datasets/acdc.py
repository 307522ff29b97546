"""ACDC: short-axis cardiac MRI of 100 patients, end-diastole and end-systole.

The split of 70, 10 and 20 patients is the one that most papers on U-Net variants use; the challenge's own test
patients (101 to 150) are no part of it.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_selfreg.datasets.benchmark import EXTRA, MISMATCHING, MISSING, Benchmark, Case, Part, Staging, Survey
from nnunetv2_selfreg.datasets.volumes import write_volume

PATIENTS = range(1, 101)
TEST = {2, 3, 8, 9, 12, 14, 17, 24, 42, 48, 49, 53, 55, 64, 67, 79, 81, 88, 92, 95}
LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}

# the 4D series of a patient is patientNNN_4d.nii.gz
_WANTED = re.compile(r"(?:^|/)patient(\d{3})(?:/(Info\.cfg)|_frame(\d+)(_gt)?\.nii(?:\.gz)?)$")


def _survey(files: Sequence[Path]) -> Survey:
    survey = Survey()
    found = survey.unique(files, _WANTED)
    beyond = {key[0] for key in found if key[0] and int(key[0]) not in PATIENTS}
    if beyond:
        survey.notes.append(f"left out {len(beyond)} patients beyond 100 (testing/): they are no part of this protocol")
    for number in PATIENTS:
        patient, part = f"{number:03d}", _part(number)
        mine = {key[1:]: path for key, path in found.items() if key[0] == patient}
        if not mine:
            survey.lacks(part, f"patient{patient}")
            continue
        labelled = {frame for _, frame, label in mine if frame and label}
        info = mine.get(("Info.cfg", None, None))
        if info is None:
            survey.problem(MISSING, f"patient{patient}/Info.cfg")
            frames = labelled
        else:
            frames = _frames(info)
            if len(frames) != 2:
                survey.problem(MISMATCHING, f"patient{patient}/Info.cfg (does not name ED and ES)")
                frames = labelled
        for frame in sorted(frames):
            name = f"patient{patient}_frame{frame}"
            image, label = mine.get((None, frame, None)), mine.get((None, frame, "_gt"))
            if image is None or label is None:
                survey.lacks(part, name, f"{name}{'' if image is None else '_gt'}.nii.gz")
            else:
                survey.cases.append(Case(name, part, image, label, group=f"patient{patient}"))
        for frame in sorted(labelled - frames):
            survey.problem(EXTRA, f"patient{patient}_frame{frame}")
    return survey


def _part(number: int) -> Part:
    return "test" if number in TEST else "train"


def _frames(info: Path) -> set[str]:
    """The frames of end-diastole and end-systole, with two digits as in the file names."""
    text = info.read_text(encoding="utf-8", errors="replace")
    return {f"{int(frame):02d}" for frame in re.findall(r"^(?:ED|ES):\s*(\d+)", text, re.MULTILINE)}


def _write(case: Case, staging: Staging) -> list[str]:
    return write_volume(case, staging, {value: value for value in LABELS.values()})


BENCHMARK = Benchmark(
    name="acdc",
    dataset="ACDC",
    number=27,
    title="ACDC's training archive",
    example="patient001/patient001_frame01.nii.gz",
    wanted=_WANTED,
    survey=_survey,
    write=_write,
    channels=["cineMRI"],
    labels=LABELS,
    ending=".nii.gz",
    protocol="70/10/20 patients by the published lists: the 70 training and 10 validation patients are trained on, "
    "with nnU-Net's folds by patient; test on both frames of the 20 test patients",
    licence="CC BY-NC-SA 4.0",
    reference="Bernard et al., Deep Learning Techniques for Automatic MRI Cardiac Multi-Structures Segmentation and "
    "Diagnosis: Is the Problem Solved?, IEEE TMI 2018",
    grouped=True,
)
