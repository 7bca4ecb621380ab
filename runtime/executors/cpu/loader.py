"""Engines of target cpu, as the registry knows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflight.runtime.executors.base import EngineLoader

if TYPE_CHECKING:
    from inflight.engine_format.manifest import EngineManifest
    from inflight.runtime.executors.cpu.executor import CpuExecutor


class CpuLoader(EngineLoader):
    def open(self, directory: Path, manifest: EngineManifest, num_blocks: int, threads: int) -> CpuExecutor:
        from inflight.runtime.executors.cpu.executor import CpuExecutor

        return CpuExecutor(directory, manifest, num_blocks, threads)

    def read_ahead(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        """The system maps the weights."""
        from inflight.runtime.executors.cpu.memory import map_ahead

        map_ahead(directory / manifest["target_facts"]["weights_file"], int(manifest["memory"]["lookup_bytes"]))


LOADER = CpuLoader()
