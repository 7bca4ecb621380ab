"""The executor of the tensorrt target: a plan under TensorRT's runtime."""
