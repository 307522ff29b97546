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
LATER = """as its own or later papers print it for the same split; neither that nor how its checkpoint was chosen was \
checked here"""
AT_224 = """a single network at 224 x 224; how the checkpoint was chosen is not known, the released Synapse and ACDC \
scripts choose it on the test set"""
THIRD_PARTY = """a third party's rerun; its split was not published and its definition of pixel accuracy is taken to \
be the share of pixels that are right"""
CROSS_VALIDATION = """another protocol: cross-validation of all training cases, nnU-Net's rule; never comparable with \
the test set's rows"""


def rows(table: str, classes: Sequence[str] = ()) -> tuple[PublishedRow, ...]:
    """Reads published numbers, one a line: method | metric | mean, then the classes' if printed | source | caveat.

    They are of the test set by the published rule. Those without a caveat are nnU-Net's own: of its cross-validation
    of all training cases, each predicted by the fold without it.
    """
    result = []
    for line in table.strip().splitlines():
        method, metric, values, source, caveat = (cell.strip() for cell in line.split("|"))
        mean, *of_classes = map(float, values.split())
        by_class = {"mean": mean} | dict(zip(classes if of_classes else (), of_classes, strict=True))
        where = ("published", TEST_SET) if caveat else ("nnunet", "nnU-Net five-fold cross-validation")
        result.append(PublishedRow(method, metric, *where, by_class, source, caveat or CROSS_VALIDATION))
    return tuple(result)
