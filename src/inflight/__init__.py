"""inflight: compile a language model ahead of time into an engine, and serve it."""

__version__ = "0.1.0"
