"""Paged attention as TensorRT plugins, compiled ahead of time."""
