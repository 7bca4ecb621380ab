"""The executor of the cpu target: a compiled library driven over ctypes."""
