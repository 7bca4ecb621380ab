"""An Executor over an engine directory of target `tensorrt`, whose runs the interpreter makes in place of a GPU.

The step, its runs and their inputs, the cache's blocks and the weights beside the plan are those of the real executor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from msgspec.structs import replace

from inflight.build.targets.tensorrt.build import kv_cache_facts
from inflight.build.targets.tensorrt.lowering.cache_layout import SLOTS, CacheLayout
from inflight.build.targets.tensorrt.lowering.host_tensor import HostTensor
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.engine_format.manifest import EngineManifest
from inflight.engine_format.tensorrt_facts import TensorRtFacts
from inflight.errors import EngineError
from inflight.runtime.executors.batch_check import check_batch
from inflight.runtime.executors.tensorrt.layouts import run_planner
from inflight.runtime.executors.tensorrt.plan import Bytes, map_weights
from inflight.runtime.executors.tensorrt.step import execute_step
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.scheduler.step import StepBatch, StepOutput
from tests.network.tensorrt.support import InterpretedNetwork

# Less than a block, and no divisor of one.
PROMPT_TILE = 7
_TYPES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}


class InterpretedExecutor:
    """The network is written again from the engine's checkpoint, with caches of `layout`.

    An engine over a paged cache builds on a GPU alone: such a layout is that of an engine with slots, whose manifest
    then says of the cache what the target would have written.
    """

    def __init__(self, directory: Path, checkpoint: Checkpoint, num_blocks: int, layout: CacheLayout = SLOTS) -> None:
        manifest = read_engine_directory(directory).manifest
        own = TensorRtFacts.of(manifest)
        self.manifest = _paged(manifest, checkpoint, layout) if layout.pages else manifest
        self.num_blocks = num_blocks
        plan = replace(own.plans[0], prompt_tile=PROMPT_TILE if layout.pages else 0)
        self._runs = run_planner(self.manifest, num_blocks, plan, directory)
        assert own.weights_file is not None
        stored = map_weights(directory / own.weights_file)
        self._network: InterpretedNetwork | None = InterpretedNetwork(
            checkpoint,
            self.manifest.limits.max_seq_len,
            num_blocks,
            _TYPES[self.manifest.model.dtype],
            layout,
            lambda host: _array(stored[host.name], host),
        )

    def execute(self, batch: StepBatch) -> StepOutput:
        return self.execute_with_logits(batch)[0]

    def execute_with_logits(self, batch: StepBatch) -> tuple[StepOutput, npt.NDArray[np.float32]]:
        if self._network is None:
            raise EngineError("The engine is closed.")
        check_batch(batch, self.manifest, self.num_blocks)
        return execute_step(batch, self._runs(batch), self._network.run)

    def close(self) -> None:
        self._network = None


def _paged(manifest: EngineManifest, checkpoint: Checkpoint, layout: CacheLayout) -> EngineManifest:
    facts = kv_cache_facts(checkpoint.config, manifest.limits, layout, manifest.kv_cache.dtype)
    return replace(manifest, kv_cache=facts)


def _array(data: Bytes, host: HostTensor) -> npt.NDArray[Any]:
    """The bytes beside the plan as the network's tensor."""
    if host.dtype == ir.DataType.INT4:
        nibbles = np.stack([data & 15, data >> 4], axis=-1).reshape(-1)[: int(np.prod(host.shape))]
        levels = ((nibbles.astype(np.int8) ^ 8) - 8).astype(ml_dtypes.int4).reshape(host.shape)
        return np.asarray(levels)
    return np.asarray(data.view(host.dtype.numpy()).reshape(host.shape))
