"""The runs that go with the layout of a TensorRT engine's caches."""

from __future__ import annotations

from pathlib import Path

from inflight.engine_format.manifest import EngineManifest
from inflight.engine_format.tensorrt_facts import BLOCKS, SLOTS, DevicePlan
from inflight.errors import EngineError
from inflight.runtime.executors.tensorrt.blocks import BlockRuns
from inflight.runtime.executors.tensorrt.inputs import RunPlanner
from inflight.runtime.executors.tensorrt.slots import SlotRuns
from inflight.runtime.loading.rebuild import rebuild_hint


def run_planner(manifest: EngineManifest, num_blocks: int, plan: DevicePlan, directory: Path) -> RunPlanner:
    """Raises EngineError when the manifest names a layout that this version does not know."""
    layout = manifest.kv_cache.layout
    if layout == SLOTS:
        return SlotRuns(manifest.limits)
    if layout == BLOCKS and plan.prompt_tile > 0:
        return BlockRuns(manifest, num_blocks, plan.prompt_tile)
    raise EngineError(
        f"The KV cache of {directory} is laid out as [{layout}], which this version does not know.",
        rebuild_hint(manifest.recipe, manifest.target, directory),
    )
