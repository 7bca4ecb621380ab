"""The executor of the reference target: the standard network under ONNX Runtime."""
