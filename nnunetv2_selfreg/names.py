"""Names of SelfReg trainers; known without importing nnU-Net."""

STOCK = "nnUNetTrainer"
# the longer names first: nnUNetTrainerSelfReg begins them all
ROOTS = ("nnUNetTrainerSelfRegSCR", "nnUNetTrainerSelfRegIFD", "nnUNetTrainerSelfReg")


def root_name(name: str) -> str | None:
    """The one of our three trainers that a SelfReg trainer's name begins with; None if the name is not one of ours."""
    return next((root for root in ROOTS if name.startswith(root)), None)


def base_name(name: str) -> str | None:
    """The trainer that a SelfReg trainer adds SelfReg to, by its name; None if the name is not one of ours."""
    root = root_name(name)
    return STOCK + name.removeprefix(root) if root else None
