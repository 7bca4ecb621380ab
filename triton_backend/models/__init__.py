"""The Python models of the Triton repository, and the translation between its tensors and the runtime's values."""
