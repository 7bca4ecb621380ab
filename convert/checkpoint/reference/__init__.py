"""The mathematics of a checkpoint in NumPy: what every network, operator and kernel computes."""
