"""Requests and what is answered: parameters checked, deltas, outputs."""
