"""Makes the 2d configuration of a plans file small enough for a CPU: small_plans.py PLANS_FILE

Half the resolution and with it half the patch and one stage less, a quarter of the channels, two pictures in a batch.
"""

from plans_file import edited_2d, halve_resolution, narrow

with edited_2d() as configuration:
    halve_resolution(configuration)
    narrow(configuration, 4)
    configuration["batch_size"] = 2
