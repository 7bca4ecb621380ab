"""Engine directories with random contents: enough for reading, verifying and sizing, without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from inflight import __version__
from inflight.engine_format.manifest import MANIFEST_NAME, EngineManifest, FileFacts
from inflight.engine_format.manifest_file import encode_manifest, with_digest
from inflight.files import sha256_file
from inflight.runtime.executors.null.executor import null_manifest

RECIPE = {"cpu": "x86-64-v3", "max_batch_size": 8, "max_seq_len": 512, "kv_cache_dtype": "auto", "strip": True}


def write_engine(directory: Path, rng: np.random.Generator, **changes: Any) -> EngineManifest:
    """A valid directory of target `null` with three files of random bytes; `changes` replace manifest fields."""
    files = {}
    for name in ("rank0.engine", "rank0.weights", "tokenizer/tokenizer.json"):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(int(rng.integers(2, 5000))))
        files[name] = FileFacts(bytes=path.stat().st_size, sha256=sha256_file(path))
    changes = {"inflight_version": __version__, "recipe": RECIPE, "files": files, **changes}
    manifest = replace(null_manifest(), **changes)
    (directory / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return manifest


def edit_manifest(directory: Path, **changes: Any) -> None:
    """Set top-level keys of manifest.json, whatever they are, and its digest."""
    path = directory / MANIFEST_NAME
    path.write_text(json.dumps(with_digest({**json.loads(path.read_text()), **changes})))
