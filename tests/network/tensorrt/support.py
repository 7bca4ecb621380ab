"""What the tests of the tensorrt target share: a live network and its interpreter, driven like an executor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from inflight.build.network import build_network
from inflight.build.targets.tensorrt.api import PagedPlugins
from inflight.build.targets.tensorrt.lowering.cache_layout import SLOTS, CacheLayout
from inflight.build.targets.tensorrt.lowering.host_tensor import HostTensor
from inflight.build.targets.tensorrt.lowering.network import lower_network
from inflight.build.targets.tensorrt.plan.weights import RefitWeights
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.runtime.executors.tensorrt.inputs import RunInputs
from inflight.runtime.executors.tensorrt.slots import slot_run
from inflight.runtime.scheduler.step import StepBatch
from tests.network.tensorrt.plugin_api import registered_plugins
from tests.network.tensorrt.plugin_network import PluginNetwork
from tests.oracles.tensorrt_network import TensorRtInterpreter, numpy_type

trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'inflight-llm[tensorrt-rtx]'")

Floats = npt.NDArray[np.float32]


class InterpretedNetwork:
    """The network of a checkpoint, written through the live API, with `num_blocks` cache blocks carried along.

    Over a paged `layout`, plugins are interpreted, too. `read` gives the numbers of a checkpoint tensor.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        max_seq_len: int,
        num_blocks: int,
        compute: ir.DataType = ir.DataType.FLOAT,
        layout: CacheLayout = SLOTS,
        read: Callable[[HostTensor], npt.NDArray[Any]] = lambda host: host.read(),
    ) -> None:
        model = build_network(checkpoint, max_seq_len)
        self._builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = PluginNetwork(self._builder.create_network(flags))
        source = RefitWeights(trt)
        with registered_plugins() if layout.pages else nullcontext() as ops:
            plugins = None if ops is None else PagedPlugins(ops, 90)
            graph = model.graph
            self._writer = lower_network(trt, self.network, graph, source, compute, layout, plugins)
        weights = {host.name: read(host) for host in source.used}
        self.interpreter = TensorRtInterpreter(trt, self.network, weights, self.network.calls)
        # Memory of a pool may hold anything where no token was written.
        unwritten = np.nan if layout.pages else 0
        self._caches = {
            tensor.name: np.full((num_blocks, *tensor.shape[1:]), unwritten, numpy_type(tensor.dtype))
            for tensor in (self.network.get_input(index) for index in range(self.network.num_inputs))
            if tensor.name.startswith("past_")
        }

    def run(self, run: RunInputs) -> Floats:
        """The logits [num_logit_rows, vocab] of a run."""
        blocks = slice(run.first_block, run.first_block + run.num_blocks)
        caches = {name: cache[blocks] for name, cache in self._caches.items()}
        results: dict[str, Any] = self.interpreter.run({**run.arrays, **caches})
        for name, cache in caches.items():
            cache[:] = results[name.replace("past_", "present_")]
        logits: Floats = results["logits"][: run.num_logit_rows]
        return logits

    def step(self, batch: StepBatch) -> dict[int, Floats]:
        """One run over all sequences of the batch, with slots: the logits of each by its index in the batch."""
        return self.split(batch, slot_run(batch, range(len(batch.sequences))))

    def split(self, batch: StepBatch, run: RunInputs) -> dict[int, Floats]:
        """The logits of each sequence of a run by its index in the batch."""
        rows = [batch.sequences[index].num_logit_rows for index in run.order]
        split = np.split(self.run(run), np.cumsum(rows))
        return dict(zip(run.order, split, strict=False))
