"""manifest.json as bytes, with a digest of itself: one that was edited or damaged is told from what was built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from inflight.engine_format.manifest import EngineManifest

DIGEST_KEY = "digest"


def encode_manifest(manifest: EngineManifest) -> bytes:
    """The file's contents, for people to read; the same facts give the same bytes."""
    facts = with_digest(msgspec.to_builtins(manifest))
    return (json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def with_digest(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a manifest and their digest, which stands for any digest that is among them."""
    others = {key: value for key, value in facts.items() if key != DIGEST_KEY}
    return {**others, DIGEST_KEY: manifest_digest(others)}


def manifest_digest(facts: Mapping[str, Any]) -> str:
    """Hex SHA-256 of the keys of a manifest but the digest, as JSON without spaces and with sorted keys."""
    return hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()
