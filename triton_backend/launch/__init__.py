"""Writing and checking a model repository, starting tritonserver, serving until stopped."""
