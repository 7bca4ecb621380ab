"""Rows of encoders."""
