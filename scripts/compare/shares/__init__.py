"""Shares of the limits of a machine that inflight reaches by itself: of families, and of formats of weights."""
