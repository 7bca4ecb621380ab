"""Engines of target cuda: the launches of a step, on a GPU or interpreted."""
