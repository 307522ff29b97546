"""Halves the resolution of the 2d configuration of a plans file: half_resolution.py PLANS_FILE

And with it the patch, with one stage less. A quarter of nnU-Net's channels, twelve slices in a batch.
"""

from plans_file import edited_2d, halve_resolution, narrow

with edited_2d() as configuration:
    halve_resolution(configuration)
    narrow(configuration, 4)
    configuration["batch_size"] = 12
