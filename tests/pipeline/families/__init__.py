"""Conversion, networks and engines of every family, with transformers as the judge."""
