"""Engines of target transformers, as the registry knows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inflight.extras import install_hint
from inflight.runtime.executors.base import EngineLoader

if TYPE_CHECKING:
    from inflight.engine_format.manifest import EngineManifest
    from inflight.runtime.executors.transformers.executor import TransformersExecutor


class TransformersLoader(EngineLoader):
    caution = (
        "Target transformers is slow (sequences are computed one after another, nothing is compiled) and not "
        "batch-invariant. Families of docs/families.md are served by --target cpu."
    )

    def open(self, directory: Path, manifest: EngineManifest, num_blocks: int, threads: int) -> TransformersExecutor:
        from inflight.runtime.executors.transformers.executor import TransformersExecutor

        return TransformersExecutor(directory, manifest, num_blocks, threads)

    def problem(self) -> str | None:
        from importlib.util import find_spec

        return None if find_spec("torch") else f"torch is not installed ({install_hint('transformers')})"


LOADER = TransformersLoader()
