"""inflight make-repo and inflight check-repo: Triton model repositories."""
