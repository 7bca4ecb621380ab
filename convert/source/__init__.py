"""Where a model comes from: a directory or a hub id, its config, tokenizer and generation settings."""
