"""Atomic writing: directories and files that are complete or absent."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from inflight.errors import InflightError
from inflight.files.full_disk import naming_a_full_disk
from inflight.files.scratch import remove_stale, replace_directory, scratch_directory

_CHUNK = 1 << 22


@contextmanager
def atomic_directory(target: Path, *, overwrite: bool = False, marker: str | None = None) -> Iterator[Path]:
    """Yield a temporary directory on `target`'s file system; it becomes `target` when the block succeeds.

    A directory that is there already and empty stays the same directory (it may be a mount, or of a parent that cannot
    be written): the files move into it. One that is not empty is replaced when `overwrite` is true and it holds the
    file `marker` (None: whatever it holds), so that a mistyped path never deletes another directory.
    Raises InflightError otherwise. An interrupt or an error inside the block leaves whatever was at `target` before;
    what a killed process leaves beside it is removed by the next call.
    """
    target = Path(os.path.realpath(target))
    for parent in (target.parent, target):
        remove_stale(parent, target.name)
    empty = _check_target(target, overwrite, marker)
    if not empty:
        target.parent.mkdir(parents=True, exist_ok=True)
    place = target if empty else target.parent
    with naming_a_full_disk(target), scratch_directory(place, target.name) as scratch:
        yield scratch
        if empty:
            _move_into(scratch, target)
        elif target.exists():
            replace_directory(scratch, target)
        else:
            os.rename(scratch, target)


def _check_target(target: Path, overwrite: bool, marker: str | None) -> bool:
    """Whether `target` is an empty directory. Raises InflightError when it may not be written or replaced."""
    if not target.exists():
        return False
    if not target.is_dir():
        raise InflightError(f"{target} is a file.", "Choose another directory.")
    if not any(target.iterdir()):
        return True
    if not overwrite:
        raise InflightError(f"{target} already exists.", "Choose another directory or pass --force to replace it.")
    if marker is not None and not (target / marker).is_file():
        raise InflightError(
            f"{target} has no {marker}, so this command did not write it, and --force does not replace it.",
            "Choose another directory, or delete that one yourself.",
        )
    return False


def _move_into(scratch: Path, target: Path) -> None:
    """Move the files of `scratch` into `target`; should one fail, those that were moved are taken away again."""
    moved: list[Path] = []
    try:
        for path in sorted(scratch.iterdir()):
            moved.append(target / path.name)
            os.rename(path, moved[-1])
        scratch.rmdir()
    except BaseException:
        for path in moved:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
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
