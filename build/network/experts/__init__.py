"""Mixtures of experts in the standard network: a model-local function, since the standard has no operator for them."""
