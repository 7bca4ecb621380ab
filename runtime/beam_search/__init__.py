"""Beam search: the search itself, and searches of an engine that serves others as well."""
