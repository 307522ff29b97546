"""Synapse multi-organ CT: the 30 labelled scans of BTCV, 18 to train and 12 to test, 8 of their 13 organs."""

import re
from functools import partial

from nnunetv2_selfreg.benchmarks.benchmark import Benchmark, sort_listed
from nnunetv2_selfreg.benchmarks.protocol import Protocol
from nnunetv2_selfreg.benchmarks.published import BASELINE, LATER, OF_VOLUMES, PAPER, rows
from nnunetv2_selfreg.benchmarks.volumes import write_volume

SCANS = [f"{scan:04d}" for scan in (*range(1, 11), *range(21, 41))]
TEST = [f"{scan:04d}" for scan in (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)]
CLASSES = ("aorta", "gallbladder", "kidney L", "kidney R", "liver", "pancreas", "spleen", "stomach")
# BTCV: 5 oesophagus, 9 inferior vena cava, 10 portal and splenic vein, 12 and 13 adrenal glands become background.
FROM_BTCV = {value: 0 for value in range(14)} | {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8}

_CHOSEN = "checkpoint chosen on the test set, as the released code does; a single network; users report"
_LOWER, _ABOUT_74 = f"{_CHOSEN} lower retrains", f"{_CHOSEN} about 74 on retraining"
PROTOCOLS = {
    "synapse": Protocol(
        title="Synapse multi-organ CT",
        dataset="synapse",
        split="12 test CTs of the 18/12 split",
        classes=CLASSES,
        metrics=OF_VOLUMES,
        ensemble=True,
        folds=5,
        cases=12,
        clusters=12,
        unit="patients",
        volumes="volumes",
        published=rows(
            f"""
            U-Net | dice | 76.85  89.07 69.72 77.77 68.6 93.43 53.98 86.67 75.58 | {PAPER} | {BASELINE}
            U-Net | hd95 | 39.7 | {PAPER} | {BASELINE}
            SelfReg-UNet | dice | 80.34  88.74 71.78 85.32 80.71 93.8 62.22 84.78 75.39 | {PAPER} | {_LOWER}
            SwinUnet | dice | 79.13  85.47 66.53 83.28 79.61 94.29 56.58 90.66 76.6 | {PAPER} | {BASELINE}
            SwinUnet | hd95 | 21.55 | {PAPER} | {BASELINE}
            SelfReg-SwinUnet | dice | 80.54  86.07 69.65 85.12 82.58 94.18 61.08 87.42 78.22 | {PAPER} | {_ABOUT_74}
            MSVM-UNet (2D) | dice | 85 | Chen et al., MSVM-UNet, arXiv 2408.13735 | {LATER}
            UNETR++ | dice | 87.22 | Shaker et al., UNETR++, arXiv 2212.04497 | {LATER}
            3D-TransUNet | dice | 88.11 | Chen et al., 3D TransUNet, arXiv 2310.07781 | {LATER}
            nnU-Net 2.8.1, 2d | dice | 85.33 | one public repository | not reviewed; a single unpublished run
            """,
            CLASSES,
        ),
    )
}


BENCHMARK = Benchmark(
    PROTOCOLS["synapse"],
    dataset="Synapse",
    number=127,
    example="RawData/Training/img/img0001.nii.gz",
    wanted=re.compile(r"(?:^|/)(?:img|(?P<label>label))(?P<name>\d{4})\.nii(?:\.gz)?$"),
    templates=("img{}.nii.gz", "label{}.nii.gz"),
    case="img{}",
    sort=partial(sort_listed, train=[scan for scan in SCANS if scan not in TEST], test=TEST),
    write=partial(write_volume, values=FROM_BTCV),
    description="18 training and 12 test scans of the 30 labelled BTCV scans by the published lists; 8 of the 13 "
    "organs, the others are background",
    licence="Synapse's terms for the BTCV challenge; redistribution is not allowed",
    reference="Landman et al., MICCAI 2015 Multi-Atlas Labeling Beyond the Cranial Vault, syn3193805",
    channels=["CT"],
    ending=".nii.gz",
)
