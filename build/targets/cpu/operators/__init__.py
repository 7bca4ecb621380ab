"""The fused operators as calls of their kernels in C."""
