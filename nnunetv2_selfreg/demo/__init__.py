"""A guided first run: a synthetic cardiac data set, then nnU-Net's own commands on it, start to finish."""
