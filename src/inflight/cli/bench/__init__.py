"""inflight bench: an engine, or a running server."""
