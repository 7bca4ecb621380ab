"""Benchmarks: an engine in this process (`offline`), a server from outside (`serve`), and the machine's limits."""
