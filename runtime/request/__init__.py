"""Requests and results: validation, deltas, outputs."""
