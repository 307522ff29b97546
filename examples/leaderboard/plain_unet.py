"""Gives the 2d configuration of a plans file the layers of a plain U-Net: plain_unet.py PLANS_FILE

Batch norm and ReLU in place of nnU-Net's instance norm and LeakyReLU; all else stays as it is in the file.
"""

from plans_file import edited_2d

with edited_2d() as configuration:
    configuration["architecture"]["arch_kwargs"] |= {
        "norm_op": "torch.nn.modules.batchnorm.BatchNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.ReLU",
        "nonlin_kwargs": {"inplace": True},
    }
