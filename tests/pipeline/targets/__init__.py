"""Targets that are not the project's own, and the one that takes a model as it is."""
