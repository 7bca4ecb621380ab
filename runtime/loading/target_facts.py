"""A target's own facts in a manifest, read as strictly as the rest of it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from inflight.engine_format.manifest import MANIFEST_NAME, EngineManifest
from inflight.engine_format.target_facts import OwnFacts
from inflight.errors import EngineError
from inflight.runtime.loading.rebuild import rebuild_hint


def read_target_facts(manifest: EngineManifest, kind: type[OwnFacts], directory: Path) -> OwnFacts:
    """`target_facts` of the engine in `directory`, as `kind`. Raises EngineError where a builder of another interface
    wrote them, a key is unknown or missing, a value has another type, or they name a file that has no digest.
    """
    if manifest.target_abi != kind.interface:
        raise EngineError(
            f"{directory} was built for interface {manifest.target_abi} of the {manifest.target} target; this is "
            f"{kind.interface}.",
            rebuild_hint(manifest.recipe, manifest.target, directory),
        )
    try:
        return kind.of(manifest)
    except msgspec.ValidationError as error:
        raise EngineError(
            f"{directory / MANIFEST_NAME} does not describe an engine: {validation_problem(error, 'target_facts')}.",
            rebuild_hint(manifest.recipe, manifest.target, directory),
        ) from error


def validation_problem(error: msgspec.ValidationError, inside: str = "") -> str:
    """ "Expected `int`, got `str` - at `$.limits.max_seq_len`" with the place, which may be `inside` another, first."""
    message, _, place = str(error).partition(" - at `$")
    where = f"{inside}{place.strip('`')}".removeprefix(".")
    return f"{where}: {message}" if where else message
