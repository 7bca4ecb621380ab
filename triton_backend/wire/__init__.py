"""Triton's tensors to the runtime's values and back."""
