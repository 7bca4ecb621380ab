"""Quantization: schemes, the checkpoint's quantization block, rounding, and back."""
