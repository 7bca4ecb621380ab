"""Directories and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from inflight.errors import InflightError

_CHUNK = 1 << 22


@contextmanager
def atomic_directory(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `target`; rename it to `target` when the block succeeds, delete it when it fails.

    Raises InflightError when `target` exists, is not empty and `overwrite` is false. An interrupt or an error inside
    the block leaves whatever was at `target` before.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())) and not overwrite:
        raise InflightError(f"{target} already exists.", "Choose another directory or pass --force to replace it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    scratch.chmod(0o755)
    try:
        yield scratch
        if target.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            os.rename(target, retired / "old")
            os.rename(scratch, target)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.rename(scratch, target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def sha256_file(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Hex SHA-256 of a file; `advance` is called with the number of bytes of each chunk (for a progress bar)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if advance is not None:
                advance(len(chunk))
    return digest.hexdigest()
