"""Servers as `inflight serve` runs them: killed, stopped, asked to stop."""
