"""Files on disk: written whole or not at all, and read whatever others put into them."""

from inflight.files.atomic import atomic_directory, sha256_file

__all__ = ["atomic_directory", "sha256_file"]
