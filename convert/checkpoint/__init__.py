"""The checkpoint: its config, the names, shapes and splits of its tensors, and its files."""
