"""Gives the 2d configuration of a plans file a quarter of nnU-Net's channels: quarter_width.py PLANS_FILE

Everything else stays as nnU-Net planned it: patch, batch, stages, convolutions.
"""

from plans_file import edited_2d, narrow

with edited_2d() as configuration:
    narrow(configuration, 4)
