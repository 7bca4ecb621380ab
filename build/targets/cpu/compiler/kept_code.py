"""Libraries that were compiled before, in the user's cache: the key is a digest of all that decides their bytes."""

from __future__ import annotations

import os

from inflight.errors import BuildError
from inflight.files.bounded import BoundedFiles
from inflight.files.cache import writable_cache_dir

# The most bytes that they take; 0: none is kept, and everything is compiled.
VARIABLE = "INFLIGHT_CODE_CACHE_BYTES"
# Of an engine's library there are a few hundred kilobytes.
_DEFAULT_BYTES = 256 << 20


def kept_code() -> BoundedFiles | None:
    """None where nothing is to be kept. Raises BuildError for a size that is none."""
    text = os.environ.get(VARIABLE) or str(_DEFAULT_BYTES)
    if not text.isdecimal():
        raise BuildError(f"{VARIABLE} is {text!r}; it is a number of bytes, 0 to keep no compiled code.")
    most_bytes = int(text)
    return BoundedFiles(writable_cache_dir() / "code", most_bytes) if most_bytes else None
