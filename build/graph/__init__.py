"""Graphs: building them, facts of their values, and the fused operators."""
