"""The sections of `benchmarks/gpu.py`: generators of rows, a check before each timing."""
