"""What the protocols of several benchmarks share: metrics, and how published numbers are written down."""

from collections.abc import Sequence

from nnunetv2_selfreg.benchmarks.protocol import TEST_SET, PublishedRow

# metrics by rule
OF_VOLUMES = {"published": ("dice", "hd95"), "nnunet": ("dice", "iou", "hd95_mm")}
OF_PICTURES = {"published": ("dice", "iou"), "nnunet": ("dice", "iou")}
OF_PIXELS = {"published": ("pixel_accuracy",), "nnunet": ("dice", "iou")}

# sources
PAPER = "Zhu et al., SelfReg-UNet, MICCAI 2024, arXiv 2406.14896"
RERUN = "SAGE-UNet, arXiv 2511.18493, as a public leaderboard lists it"
REVISITED = "Isensee et al., nnU-Net Revisited, MICCAI 2024"
RELEASE = "nnU-Net v1 release"

# caveats
BASELINE = "baseline as printed in the paper's table; how its checkpoint was chosen is not said there; a single network"
LATER = "as later papers print it for the same split; neither that nor how its checkpoint was chosen was checked here"
AT_224 = """at 224 x 224; how the checkpoint was chosen is not known, the released Synapse and ACDC scripts choose it \
on the test set"""
THIRD_PARTY = """a third party's rerun; its split was not published and its definition of pixel accuracy is taken to \
be the share of pixels that are right"""
CROSS_VALIDATION = """another protocol: cross-validation of all training cases, nnU-Net's rule; never comparable with \
the test set's rows"""


def row(
    method: str,
    mean: float,
    source: str,
    caveat: str,
    metric: str = "dice",
    classes: Sequence[str] = (),
    values: Sequence[float] = (),
) -> PublishedRow:
    """A number of the test set by the published rule: the mean, and where they were published the classes' values."""
    by_class = {"mean": mean} | dict(zip(classes, values, strict=True))
    return PublishedRow(method, metric, "published", TEST_SET, by_class, source, caveat)


def cross_validation(method: str, mean: float, source: str) -> PublishedRow:
    """One of nnU-Net's own numbers: the mean Dice of all training cases, each predicted by the fold without it."""
    protocol = "nnU-Net five-fold cross-validation"
    return PublishedRow(method, "dice", "nnunet", protocol, {"mean": mean}, source, CROSS_VALIDATION)


# Nothing here converts or scores this data set; its numbers are for whoever cross-validates on it.
HIPPOCAMPUS = (
    cross_validation("nnU-Net 2d", 86.93, f"{RELEASE}, MSD Task04, 260 cases"),
    cross_validation("nnU-Net 3d_fullres", 88.91, f"{RELEASE}, MSD Task04, 260 cases"),
)
