"""Structured output (guided decoding): what a text must be, compiled into the tokens that may come next."""
