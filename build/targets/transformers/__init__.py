"""The transformers target: a model as it is; see docs/targets/transformers.md."""
