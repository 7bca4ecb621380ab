"""What executors on NVIDIA GPUs share: a device with its stream and memory, captured graphs, compiled kernels."""
