"""inflight eval: what an engine keeps of a model."""
