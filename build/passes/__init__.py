"""Rewriting the standard network toward a target; pipeline.py lists the passes."""
