"""The accuracy record of an engine directory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from inflight.accuracy.record import FoundRecord, Subject, find_accuracy
from inflight.engine_format.manifest import EngineManifest
from inflight.engine_format.manifest_file import manifest_digest


def engine_subject(manifest: EngineManifest) -> Subject:
    """What a record of this engine is bound to."""
    return Subject(
        checkpoint_sha256=manifest.source.checkpoint_sha256,
        engine_digest=manifest_digest(msgspec.to_builtins(manifest)),
        kv_cache_dtype=manifest.kv_cache.dtype,
    )


def engine_accuracy(directory: Path, manifest: EngineManifest) -> FoundRecord:
    """The record in the directory of the engine with this manifest, or why the one that is there is not believed."""
    return find_accuracy(directory, engine_subject(manifest))
