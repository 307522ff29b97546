"""Public benchmarks: their archives converted to nnU-Net's data sets, and predictions scored by their own rules."""
