"""Models for the tests: random weights under the names of each family, tokenizers, checkpoints."""
