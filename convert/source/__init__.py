"""The source of a conversion: a directory or a hub id, its config, tokenizer and generation settings."""
