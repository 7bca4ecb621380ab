"""Where a model is, and what something else is."""
