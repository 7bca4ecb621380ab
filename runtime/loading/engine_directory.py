"""Reading the manifest of an engine directory, with an error that says why it cannot be used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from inflight import __version__
from inflight.engine_format.manifest import FORMAT_VERSION, MANIFEST_NAME, EngineManifest
from inflight.engine_format.manifest_file import DIGEST_KEY, manifest_digest
from inflight.errors import EngineError
from inflight.runtime.loading.rebuild import rebuild_hint
from inflight.runtime.loading.target_facts import validation_problem

_RENEW = "Copy the engine again, or build it again."


@dataclass(frozen=True)
class EngineDirectory:
    """A directory whose manifest was understood. `manifest_sha256` identifies the manifest's bytes."""

    path: Path
    manifest: EngineManifest
    manifest_sha256: str


def read_engine_directory(path: Path) -> EngineDirectory:
    """Read `path`/manifest.json. No other file is touched.

    Raises EngineError when there is no manifest, it is not one, another version of inflight wrote it, or it was changed
    since.
    """
    data = _read_bytes(path)
    try:
        facts = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError(f"{path / MANIFEST_NAME} is not valid JSON: {error}.", _RENEW) from error
    if not isinstance(facts, dict) or "format_version" not in facts:
        raise EngineError(
            f"{path / MANIFEST_NAME} is not the manifest of an engine: it has no format_version.",
            "An engine directory is what `inflight build-engine` writes.",
        )
    _check_versions(path, facts)
    _check_digest(path, facts)
    try:
        manifest = msgspec.convert(facts, EngineManifest)
        _check_files(manifest)
    except msgspec.ValidationError as error:
        raise EngineError(
            f"{path / MANIFEST_NAME} does not describe an engine: {validation_problem(error)}.", _rebuild(path, facts)
        ) from error
    return EngineDirectory(path, manifest, hashlib.sha256(data).hexdigest())


def _read_bytes(path: Path) -> bytes:
    try:
        return (path / MANIFEST_NAME).read_bytes()
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise EngineError(f"{path} is a file.", "Give the engine's directory.") from None
    except OSError as error:
        raise EngineError(f"{path / MANIFEST_NAME} cannot be read: {error.strerror}.") from error
    if not path.exists():
        raise EngineError(
            f"There is no engine at {path}.", "Build one: inflight build-engine --output-dir " + str(path)
        )
    if (path / "config.json").exists():
        raise EngineError(
            f"{path} holds a model or checkpoint (config.json) but no engine ({MANIFEST_NAME}).",
            "A model becomes a checkpoint with `inflight convert`, and that an engine with `inflight build-engine`.",
        )
    raise EngineError(
        f"{path} has no {MANIFEST_NAME}, so it is not an engine.", "Give the directory that build-engine wrote."
    )


def _check_versions(path: Path, facts: dict[str, Any]) -> None:
    written_by = facts.get("inflight_version", "unknown")
    if facts["format_version"] != FORMAT_VERSION:
        raise EngineError(
            f"{path} has engine format {facts['format_version']} (written by inflight {written_by}); "
            f"this is inflight {__version__}, which reads format {FORMAT_VERSION}.",
            _rebuild(path, facts),
        )
    if written_by != __version__:
        raise EngineError(
            f"{path} was built by inflight {written_by}; this is inflight {__version__}.", _rebuild(path, facts)
        )


def _check_digest(path: Path, facts: dict[str, Any]) -> None:
    """Take the manifest's own digest out of it."""
    told = facts.pop(DIGEST_KEY, None)
    if told is None:
        raise EngineError(f"{path / MANIFEST_NAME} has no {DIGEST_KEY} of itself.", _RENEW)
    if told != manifest_digest(facts):
        raise EngineError(
            f"{path / MANIFEST_NAME} is damaged, or was edited: its {DIGEST_KEY} is not that of what it says.", _RENEW
        )


def _rebuild(path: Path, facts: dict[str, Any]) -> str:
    recipe = facts.get("recipe")
    return rebuild_hint(recipe if isinstance(recipe, dict) else {}, str(facts.get("target", "cpu")), path)


def _check_files(manifest: EngineManifest) -> None:
    """What is read must be among `files`, which are verified, and those inside the directory."""
    names = [PurePosixPath(name) for name in manifest.files]
    if outside := [str(name) for name in names if name.is_absolute() or ".." in name.parts]:
        raise msgspec.ValidationError(f"files outside the directory: {', '.join(outside)}")
    if manifest.listing is not None and manifest.listing not in manifest.files:
        raise msgspec.ValidationError(f"no digest of {manifest.listing}")
