"""`inflight build-engine`."""
