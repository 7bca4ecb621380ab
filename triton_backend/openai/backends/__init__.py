"""Where tokens come from: the engine in this process, or Triton. Both give the same ones."""
