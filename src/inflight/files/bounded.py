"""Files of the cache that together stay below a size; those used last are kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from inflight.files.scratch import remove_stale, scratch_directory

_SCRATCH = "kept"
_DIGEST_BYTES = 32


class BoundedFiles:
    """A directory of files by their keys (hex digits), at most `most_bytes` together; the least recently used go first.

    Any process may read and write at any time. A file is as it was put, or as if it were not there: its SHA-256 stands
    before its contents. Nothing here fails: where nothing can be written, nothing is kept.
    """

    def __init__(self, directory: Path, most_bytes: int) -> None:
        self._directory = directory
        self._most_bytes = most_bytes

    def get(self, key: str) -> bytes | None:
        """What was put under the key, or None."""
        path = self._directory / key
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        content = stored[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != stored[:_DIGEST_BYTES]:
            return None
        with suppress(OSError):
            os.utime(path)  # used just now
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keep `content`, in the place of what was there; nothing is kept that takes more than all may."""
        if _DIGEST_BYTES + len(content) > self._most_bytes:
            return
        with suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            remove_stale(self._directory, _SCRATCH)
            with scratch_directory(self._directory, _SCRATCH) as scratch:
                whole = scratch / key
                whole.write_bytes(hashlib.sha256(content).digest() + content)
                os.replace(whole, self._directory / key)
            self._make_room()

    def _make_room(self) -> None:
        used = 0
        for _, size, path in sorted(self._files(), reverse=True):
            used += size
            if used > self._most_bytes:
                path.unlink(missing_ok=True)

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """When each was used last (nanoseconds), its bytes, and where it is."""
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(OSError):  # removed in the meantime
                    if entry.is_file(follow_symlinks=False):
                        state = entry.stat(follow_symlinks=False)
                        yield state.st_mtime_ns, state.st_size, Path(entry.path)
