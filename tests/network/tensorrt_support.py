"""What the tests of the tensorrt target share: a live network and its interpreter, driven like an executor."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from inflight.build.network import build_network
from inflight.build.targets.tensorrt.interpreter import TensorRtInterpreter, numpy_type
from inflight.build.targets.tensorrt.network import lower_network
from inflight.build.targets.tensorrt.weights import RefitWeights
from inflight.convert.checkpoint import Checkpoint
from inflight.runtime.executors.tensorrt_slots import slot_run
from inflight.runtime.step import StepBatch

trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'inflight-llm[tensorrt-rtx]'")

Floats = npt.NDArray[np.float32]


class InterpretedNetwork:
    """The network of a checkpoint, written through the live API, with `num_slots` cache slots carried along."""

    def __init__(
        self, checkpoint: Checkpoint, max_seq_len: int, num_slots: int, compute: ir.DataType = ir.DataType.FLOAT
    ) -> None:
        model = build_network(checkpoint, max_seq_len)
        self._builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        self.network = self._builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self.weights = RefitWeights(trt)
        self._writer = lower_network(trt, self.network, model.graph, self.weights, compute)
        weights = {host.name: host.read() for host in self.weights.used}
        self.interpreter = TensorRtInterpreter(trt, self.network, weights)
        self._caches = {
            tensor.name: np.zeros((num_slots, *tensor.shape[1:]), numpy_type(tensor.dtype))
            for tensor in (self.network.get_input(index) for index in range(self.network.num_inputs))
            if tensor.name.startswith("past_")
        }

    def step(self, batch: StepBatch) -> dict[int, Floats]:
        """One run over all sequences of the batch: the logits of each by its index in the batch."""
        run = slot_run(batch, range(len(batch.sequences)))
        slots = slice(run.first_block, run.first_block + run.num_blocks)
        caches = {name: cache[slots] for name, cache in self._caches.items()}
        results: dict[str, Any] = self.interpreter.run({**run.arrays, **caches})
        for name, cache in caches.items():
            cache[:] = results[name.replace("past_", "present_")]
        rows = [batch.sequences[index].num_logit_rows for index in run.order]
        split = np.split(results["logits"], np.cumsum(rows))
        return dict(zip(run.order, split, strict=False))
