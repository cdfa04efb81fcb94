"""`python -m memfast_kernels.aot`: the kernels compiled for GPUs that are not there, and judged."""
