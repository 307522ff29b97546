"""What nnU-Net's trainer search sees of nnunetv2-selfreg; everything is in `nnunetv2_selfreg.trainer`."""

from typing import Any


def __getattr__(name: str) -> Any:
    # look-ups of other trainers pass here too: they must cost nothing
    if not name.startswith("nnUNetTrainerSelfReg"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nnunetv2_selfreg import trainer

    if name in trainer.looking_for:  # the library itself searches, for what somebody wrote
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(trainer, name)
