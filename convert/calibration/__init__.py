"""Quantization that looks at what a model makes of a text (calibration), layer by layer, in bounded memory."""
