"""Kernels that Triton compiles on a GPU."""
