"""References of the kernels for GPUs, and what runs their launches without one."""
