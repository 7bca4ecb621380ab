"""`inflight bench serve`: a running server, measured by its clients."""

from __future__ import annotations


def serve() -> None:
    """Measure a running server."""
