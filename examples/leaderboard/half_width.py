"""Gives the 2d configuration of a plans file half of nnU-Net's channels: half_width.py PLANS_FILE

Everything else stays as nnU-Net planned it: patch, batch, stages, convolutions.
"""

from plans_file import edited_2d, narrow

with edited_2d() as configuration:
    narrow(configuration, 2)
