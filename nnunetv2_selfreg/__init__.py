"""SelfReg-UNet's regularisation losses (MICCAI 2024, arXiv 2406.14896) as nnU-Net v2 trainers."""

__version__ = "0.1.0"
