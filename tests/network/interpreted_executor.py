"""An Executor over an engine directory of target `tensorrt`, whose runs the interpreter makes in place of a GPU.

The step, its runs and their inputs, the slots and the weights beside the plan are those of the real executor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import tensorrt_rtx

from inflight.build.network import build_network
from inflight.build.targets.tensorrt.builder import lower_model
from inflight.build.targets.tensorrt.host_tensor import HostTensor
from inflight.build.targets.tensorrt.interpreter import TensorRtInterpreter, numpy_type
from inflight.convert.checkpoint import Checkpoint
from inflight.errors import EngineError
from inflight.runtime.engine_directory import read_engine_directory
from inflight.runtime.executors.batch_check import check_batch
from inflight.runtime.executors.tensorrt import WEIGHTS_NAME
from inflight.runtime.executors.tensorrt_inputs import RunInputs
from inflight.runtime.executors.tensorrt_layouts import run_planner
from inflight.runtime.executors.tensorrt_plan import Bytes, map_weights
from inflight.runtime.executors.tensorrt_step import execute_step
from inflight.runtime.step import StepBatch, StepOutput

_TYPES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}


class InterpretedExecutor:
    """`num_blocks` slots of max_seq_len tokens. The network is written again from the engine's checkpoint."""

    def __init__(self, directory: Path, checkpoint: Checkpoint, num_blocks: int) -> None:
        self.manifest = read_engine_directory(directory).manifest
        self.num_blocks = num_blocks
        self._runs = run_planner(self.manifest, num_blocks, self.manifest.plans[0], directory)
        compute, place = _TYPES[self.manifest.model.dtype], self.manifest.plans[0].weights
        model = build_network(checkpoint, self.manifest.limits.max_seq_len)
        self._lowered = lower_model(tensorrt_rtx, model, compute, place)
        stored = map_weights(directory / WEIGHTS_NAME)
        weights = {host.name: _array(stored[host.name], host) for host in self._lowered.used}
        network = self._lowered.network
        self._interpreter: TensorRtInterpreter | None = TensorRtInterpreter(tensorrt_rtx, network, weights)
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        self._caches: dict[str, npt.NDArray[Any]] = {
            tensor.name: np.zeros((num_blocks, *tensor.shape[1:]), numpy_type(tensor.dtype))
            for tensor in inputs
            if tensor.name.startswith("past_")
        }

    def execute(self, batch: StepBatch) -> StepOutput:
        return self.execute_with_logits(batch)[0]

    def execute_with_logits(self, batch: StepBatch) -> tuple[StepOutput, npt.NDArray[np.float32]]:
        if self._interpreter is None:
            raise EngineError("The engine is closed.")
        check_batch(batch, self.manifest, self.num_blocks)
        return execute_step(batch, self._runs(batch), self._run)

    def close(self) -> None:
        self._interpreter = None

    def _run(self, run: RunInputs) -> npt.NDArray[np.float32]:
        assert self._interpreter is not None
        slots = slice(run.first_block, run.first_block + run.num_blocks)
        caches = {name: cache[slots] for name, cache in self._caches.items()}
        results = self._interpreter.run({**run.arrays, **caches})
        for name, cache in caches.items():
            cache[:] = results[name.replace("past_", "present_")]
        logits: npt.NDArray[np.float32] = results["logits"][: run.num_logit_rows]
        return logits


def _array(data: Bytes, host: HostTensor) -> npt.NDArray[Any]:
    """The bytes beside the plan as the network's tensor."""
    if host.dtype == ir.DataType.INT4:
        nibbles = np.stack([data & 15, data >> 4], axis=-1).reshape(-1)[: int(np.prod(host.shape))]
        return ((nibbles.astype(np.int8) ^ 8) - 8).astype(ml_dtypes.int4).reshape(host.shape)
    return data.view(host.dtype.numpy()).reshape(host.shape)
