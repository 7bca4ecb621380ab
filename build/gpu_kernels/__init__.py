"""Kernels in the Triton language, compiled ahead of time to cubins."""
