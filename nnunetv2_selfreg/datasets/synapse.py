"""Synapse multi-organ CT: the 30 labelled scans of BTCV, 18 to train and 12 to test, 8 of their 13 organs."""

import re
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_selfreg.datasets.benchmark import Benchmark, Case, Staging, Survey
from nnunetv2_selfreg.datasets.volumes import write_volume

SCANS = [*range(1, 11), *range(21, 41)]
TEST = {1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38}
LABELS = {
    "background": 0,
    "aorta": 1,
    "gallbladder": 2,
    "left kidney": 3,
    "right kidney": 4,
    "liver": 5,
    "pancreas": 6,
    "spleen": 7,
    "stomach": 8,
}
# BTCV: 5 oesophagus, 9 inferior vena cava, 10 portal and splenic vein, 12 and 13 adrenal glands become background.
FROM_BTCV = {value: 0 for value in range(14)} | {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8}

_WANTED = re.compile(r"(?:^|/)(img|label)(\d{4})\.nii(?:\.gz)?$")


def _survey(files: Sequence[Path]) -> Survey:
    survey = Survey()
    found = survey.unique(files, _WANTED)
    beyond = {number for _, number in found if number and int(number) not in SCANS}
    if beyond:
        survey.notes.append(f"left out {len(beyond)} scans that are not of the 30 labelled ones")
    for scan in SCANS:
        number = f"{scan:04d}"
        image, label = found.get(("img", number)), found.get(("label", number))
        files_of_scan = f"img{number}.nii.gz and label{number}.nii.gz"
        survey.pair(f"img{number}", "test" if scan in TEST else "train", image, label, files_of_scan)
    return survey


def _write(case: Case, staging: Staging) -> list[str]:
    return write_volume(case, staging, FROM_BTCV)


BENCHMARK = Benchmark(
    name="synapse",
    dataset="Synapse",
    number=127,
    title="BTCV's abdomen training archive (RawData/Training)",
    example="img/img0001.nii.gz",
    wanted=_WANTED,
    survey=_survey,
    write=_write,
    channels=["CT"],
    labels=LABELS,
    ending=".nii.gz",
    protocol="18 training and 12 test scans of the 30 labelled BTCV scans by the published lists; 8 of the 13 organs, "
    "the others are background",
    licence="Synapse's terms for the BTCV challenge; redistribution is not allowed",
    reference="Landman et al., MICCAI 2015 Multi-Atlas Labeling Beyond the Cranial Vault, syn3193805",
)
