"""Sources of tokens: the engine in this process, or Triton. Both give the same tokens."""
