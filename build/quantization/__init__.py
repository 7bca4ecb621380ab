"""Quantized matrices and rows in the standard network: how each form is written, and how a pass recognizes it."""
