"""KV cache blocks that outlive the pool and the process: copies in files, by the hash of their chain."""
