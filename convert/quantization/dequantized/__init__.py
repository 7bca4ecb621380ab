"""Quantized matrices of a checkpoint under the names that transformers has for them, as float32."""
