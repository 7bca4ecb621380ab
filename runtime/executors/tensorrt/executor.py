"""The tensorrt target's executor: a plan under TensorRT's runtime, caches on the device, tokens chosen on the host."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.engine_format.manifest import EngineManifest
from inflight.engine_format.tensorrt_facts import TensorRtFacts
from inflight.errors import EngineError
from inflight.machine.cuda import compute_capability
from inflight.runtime.executors.batch_check import check_batch
from inflight.runtime.executors.gpu.device import Device, DeviceMemory
from inflight.runtime.executors.tensorrt.api import Module, Runtime, find_module
from inflight.runtime.executors.tensorrt.buffers import DeviceBuffers
from inflight.runtime.executors.tensorrt.device import require_gpu
from inflight.runtime.executors.tensorrt.layouts import run_planner
from inflight.runtime.executors.tensorrt.plan import choose_plan, map_weights, open_plan, refit, upload
from inflight.runtime.executors.tensorrt.plan_limits import check_limits
from inflight.runtime.executors.tensorrt.runner import PlanRunner
from inflight.runtime.executors.tensorrt.step import execute_step
from inflight.runtime.loading.target_facts import read_target_facts
from inflight.runtime.scheduler.step import StepBatch, StepOutput

MODULES = ("tensorrt_rtx", "tensorrt")

Floats: TypeAlias = npt.NDArray[np.float32]


class TensorRtExecutor:
    """A verified engine directory of target `tensorrt`; see Executor. The manifest says what a KV block is: a slot of
    max_seq_len tokens, or a page.

    NVIDIA's kernels may sum in another order for another number of rows, so the last bits of a row's logits depend on
    the batch. Raises EngineError when TensorRT, the driver or a plan for this GPU is missing.
    """

    def __init__(self, directory: Path, manifest: EngineManifest, num_blocks: int) -> None:
        facts = read_target_facts(manifest, TensorRtFacts, directory)
        trt = find_module(next((name for name in MODULES if name in manifest.tools), MODULES[0]))
        require_gpu()
        self.manifest = manifest
        self.num_blocks = num_blocks
        self.plan = choose_plan(facts.plans, manifest, compute_capability(), directory)
        self._runs = run_planner(manifest, num_blocks, self.plan, directory)
        # An engine must not outlive the runtime that read it.
        self._runtime: Runtime | None = None
        # Freed in reverse order: what runs goes before the memory that it runs in.
        self._held = ExitStack()
        with ExitStack() as opening:
            opening.callback(self._held.close)
            self._runner: PlanRunner | None = self._open(trt, directory, facts.weights_file)
            opening.pop_all()

    def execute(self, batch: StepBatch) -> StepOutput:
        return self.execute_with_logits(batch)[0]

    def execute_with_logits(self, batch: StepBatch) -> tuple[StepOutput, Floats]:
        """As execute(), and the logits [logit rows, vocab_size] before any adjustment."""
        if self._runner is None:
            raise EngineError("The engine is closed.")
        check_batch(batch, self.manifest, self.num_blocks)
        return execute_step(batch, self._runs(batch), self._runner.run)

    def close(self) -> None:
        self._runner = None
        self._held.close()
        self._runtime = None

    def _open(self, trt: Module, directory: Path, weights_file: str | None) -> PlanRunner:
        device = Device()
        self._held.callback(device.close)
        buffers = DeviceBuffers(self.manifest, self.num_blocks, self._runs.sizes, device)
        runtime, engine = open_plan(trt, directory / self.plan.file, self.manifest)
        self._runtime = runtime
        check_limits(engine, self.manifest, directory / self.plan.file)
        weights: dict[str, DeviceMemory] = {}
        if weights_file is not None and self.plan.weights == "refit":
            refit(trt, engine, map_weights(directory / weights_file))
        elif weights_file is not None and self.plan.weights == "inputs":
            weights = upload(map_weights(directory / weights_file), device)
        runner = PlanRunner(trt, engine, buffers, weights, device)
        self._held.callback(runner.close)
        return runner
