"""Verifies the files of an engine against its manifest: sizes always, digests once per state of the files.

A successful check of the digests is remembered in the user's cache directory with what the file system says of every
file (size, times, inode), so that the next load reads none of them.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from inflight.engine_format.manifest import FileFacts
from inflight.errors import EngineError
from inflight.files import sha256_file
from inflight.files.cache import user_cache_dir, write_record
from inflight.progress import progress_bar
from inflight.runtime.loading.engine_directory import EngineDirectory

Verification: TypeAlias = Literal["always", "once", "never"]
VARIABLE = "INFLIGHT_VERIFY"

_Fingerprint: TypeAlias = dict[str, list[int]]


def verify_files(engine: EngineDirectory, mode: Verification | None = None) -> None:
    """Check every file of the manifest.

    mode: `always` reads every byte; `once` (the default) unless this very state of the files was read before; `never`
    compares sizes only. None takes the environment variable INFLIGHT_VERIFY. Raises EngineError for a missing file, a
    wrong size or wrong contents, each with its own message.
    """
    mode = mode or _mode_of_environment()
    fingerprint = {name: _check_size(engine, name, facts) for name, facts in engine.manifest.files.items()}
    if mode == "never" or (mode == "once" and _remembered(engine, fingerprint)):
        return
    _check_digests(engine)
    _remember(engine, fingerprint)


def _mode_of_environment() -> Verification:
    value = os.environ.get(VARIABLE, "once")
    for mode in get_args(Verification):
        if value == mode:
            return mode  # type: ignore[no-any-return]
    raise EngineError(f"{VARIABLE} is {value!r}.", f"It may be {', '.join(get_args(Verification))}.")


def _check_size(engine: EngineDirectory, name: str, facts: FileFacts) -> list[int]:
    """The file's fingerprint. A write changes the times even where it keeps the size."""
    file = engine.path / name
    try:
        state = file.stat()
    except OSError as error:
        raise EngineError(f"{file} is missing.", "Copy the whole engine directory, or build it again.") from error
    if state.st_size != facts.bytes:
        what = "truncated" if state.st_size < facts.bytes else "too long"
        raise EngineError(
            f"{file} is {what}: it has {state.st_size:,} bytes, the manifest says {facts.bytes:,}.",
            "Copy the engine again, or build it again.",
        )
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def _check_digests(engine: EngineDirectory) -> None:
    files = engine.manifest.files
    with progress_bar(f"Verifying {engine.path.name}", sum(facts.bytes for facts in files.values())) as advance:
        for name, facts in files.items():
            if sha256_file(engine.path / name, advance) != facts.sha256:
                raise EngineError(
                    f"{engine.path / name} is damaged: its SHA-256 is not the one in the manifest.",
                    "Copy the engine again, or build it again.",
                )


def _record_path(engine: EngineDirectory) -> Path:
    key = hashlib.sha256(os.fsencode(engine.path.resolve())).hexdigest()
    return user_cache_dir() / "verified" / f"{key}.json"


def _remembered(engine: EngineDirectory, fingerprint: _Fingerprint) -> bool:
    try:
        record = json.loads(_record_path(engine).read_text())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: the user has no home directory
        return False
    return bool(record == {"manifest_sha256": engine.manifest_sha256, "files": fingerprint})


def _remember(engine: EngineDirectory, fingerprint: _Fingerprint) -> None:
    """Best effort: without a writable cache directory the next load reads the files again."""
    try:
        record = {"manifest_sha256": engine.manifest_sha256, "files": fingerprint}
        write_record(_record_path(engine), json.dumps(record))
    except (OSError, RuntimeError):
        return
