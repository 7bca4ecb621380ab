"""The executor of the transformers target: a model as it is, on torch."""
