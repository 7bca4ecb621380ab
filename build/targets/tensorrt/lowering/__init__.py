"""The standard network through TensorRT's network API."""
