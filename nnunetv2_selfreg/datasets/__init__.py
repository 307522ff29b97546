"""Original archives of public benchmarks to nnU-Net raw data sets with the benchmark's split, one module each."""
