"""ACDC: short-axis cardiac MRI of 100 patients, end-diastole and end-systole.

The split of 70, 10 and 20 patients is the one that most papers on U-Net variants use; the challenge's own test
patients (101 to 150) are no part of it.
"""

import re
from functools import partial
from pathlib import Path

from nnunetv2_selfreg.benchmarks.benchmark import Benchmark, CaseError, Part, Survey
from nnunetv2_selfreg.benchmarks.protocol import Protocol
from nnunetv2_selfreg.benchmarks.published import BASELINE, LATER, OF_VOLUMES, PAPER, RELEASE, REVISITED, rows
from nnunetv2_selfreg.benchmarks.volumes import write_volume

PATIENTS = range(1, 101)
TEST = {2, 3, 8, 9, 12, 14, 17, 24, 42, 48, 49, 53, 55, 64, 67, 79, 81, 88, 92, 95}
CLASSES = ("RV", "Myo", "LV")

_CHOSEN = """checkpoint chosen on the test set, the best test epoch, as the released code does; a single network; \
users report lower retrains"""
PROTOCOLS = {
    "acdc": Protocol(
        title="ACDC",
        dataset="acdc",
        split="20 test patients (40 volumes) of the 70/10/20 split",
        classes=CLASSES,
        metrics=OF_VOLUMES,
        ensemble=True,
        folds=5,
        cases=40,
        clusters=20,
        unit="patients",
        volumes="volumes",
        cluster=r"(patient\d{3})_frame\d{2}",
        published=rows(
            f"""
            U-Net                           | dice | 89.68                   | {PAPER} | {BASELINE}
            SelfReg-UNet                    | dice | 91.43 88.92 89.49 95.88 | {PAPER} | {_CHOSEN}
            SwinUnet                        | dice | 90    88.55 85.62 95.83 | {PAPER} | {BASELINE}
            SelfReg-SwinUnet                | dice | 91.49 89.49 89.27 95.7  | {PAPER} | {_CHOSEN}
            MSVM-UNet                       | dice | 92.58 | Chen et al., MSVM-UNet, arXiv 2408.13735 | {LATER}
            nnFormer                        | dice | 92.06 | Zhou et al., nnFormer, arXiv 2109.03201 | {LATER}
            nnU-Net 3d_fullres (original)   | dice | 91.54 | {REVISITED} |
            nnU-Net 3d_fullres (ResEnc M)   | dice | 91.99 | {REVISITED} |
            MedNeXt-L k3                    | dice | 92.65 | {REVISITED} |
            nnU-Net 2d                      | dice | 91.65 | {RELEASE} |
            nnU-Net ensemble                | dice | 92.28 | {RELEASE} |
            """,
            CLASSES,
        ),
    )
}


def _sort(survey: Survey) -> None:
    for number in PATIENTS:
        patient = f"patient{number:03d}"
        part: Part = "test" if number in TEST else "train"
        labelled = {name for name, label in survey.files if name.startswith(patient) and label}
        if not any(name.startswith(patient) for name, _ in survey.files):
            survey.lacks(part, patient, "missing", patient)
            continue
        try:
            frames = _frames(survey.files.pop((patient, False), None), patient)
        except CaseError as error:
            survey.lacks(part, patient, error.kind, str(error))
            continue
        for name in sorted(frames):
            survey.pair(name, part)
        survey.problem("extra", *sorted(labelled - frames))
    survey.leave_out(name[:10] for name, _ in survey.files if int(name[7:10]) not in PATIENTS)


def _frames(info: Path | None, patient: str) -> set[str]:
    """The names of end-diastole and end-systole by the patient's Info.cfg."""
    if info is None:
        raise CaseError("missing", f"{patient}/Info.cfg")
    try:
        found = re.findall(rb"^(ED|ES):\s*(\d+)\s*$", info.read_bytes(), re.MULTILINE)
    except OSError as error:
        raise CaseError("unreadable", f"{patient}/Info.cfg ({error.strerror})") from None
    if sorted(key for key, _ in found) != [b"ED", b"ES"] or len(frames := {int(number) for _, number in found}) != 2:
        raise CaseError("mismatching", f"{patient}/Info.cfg (does not name ED and ES)")
    return {f"{patient}_frame{frame:02d}" for frame in frames}


BENCHMARK = Benchmark(
    PROTOCOLS["acdc"],
    dataset="ACDC",
    number=27,
    example="training/patient001/patient001_frame01.nii.gz",
    # the 4D series of a patient is patientNNN_4d.nii.gz
    wanted=re.compile(r"(?:^|/)(?P<name>patient\d{3}(?:_frame\d+)?)(?:/Info\.cfg|(?P<label>_gt)?\.nii(?:\.gz)?)$"),
    templates=("{}.nii.gz", "{}_gt.nii.gz"),
    sort=_sort,
    write=partial(write_volume, values={value: value for value in range(len(CLASSES) + 1)}),
    description="70/10/20 patients by the published lists: the 70 training and 10 validation patients are trained on, "
    "with nnU-Net's folds by patient; test on both frames of the 20 test patients",
    licence="CC BY-NC-SA 4.0",
    reference="Bernard et al., Deep Learning Techniques for Automatic MRI Cardiac Multi-Structures Segmentation and "
    "Diagnosis: Is the Problem Solved?, IEEE TMI 2018",
    channels=["cineMRI"],
    ending=".nii.gz",
)
