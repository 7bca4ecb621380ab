"""inflight verify: an engine against transformers."""
