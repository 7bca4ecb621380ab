"""Runs of an opened plan: shapes, addresses, and CUDA graphs for decodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.runtime.executors.gpu.device import Device, DeviceMemory
from inflight.runtime.executors.tensorrt.api import CudaEngine, ExecutionContext, Module, checked
from inflight.runtime.executors.tensorrt.buffers import DeviceBuffers
from inflight.runtime.executors.tensorrt.graphs import DecodeGraphs
from inflight.runtime.executors.tensorrt.inputs import RunInputs

Floats: TypeAlias = npt.NDArray[np.float32]

# The order in which build/targets/tensorrt/plan/profiles.py adds them.
DECODE, MIXED = 0, 1


class PlanRunner:
    """Contexts for both profiles, which use the same activations, one after the other on one stream."""

    def __init__(
        self,
        trt: Module,
        engine: CudaEngine,
        buffers: DeviceBuffers,
        weights: Mapping[str, DeviceMemory],
        device: Device,
    ) -> None:
        self._trt = trt
        self._engine = engine
        self._buffers = buffers
        self._weights = weights
        self._device = device
        self._mixed = self._context(MIXED)
        self._decodes = DecodeGraphs(device, lambda: self._context(DECODE))

    def run(self, run: RunInputs) -> Floats:
        """The logits [num_logit_rows, vocab] of a run, once it is over."""
        self._buffers.write_inputs(run)
        if run.decodes:
            self._decodes.run(_sizes(run), self._buffers.generation, lambda context: self._enqueue(context, run))
        else:
            self._enqueue(self._mixed, run)
        return self._buffers.read_logits(run)

    def close(self) -> None:
        self._device.wait()
        self._decodes.clear()

    def _context(self, profile: int) -> ExecutionContext:
        trt = self._trt
        config = checked(self._engine.create_runtime_config(), "make a runtime configuration")
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
            # TensorRT-RTX compiles nothing while requests wait, and exchanges no kernel for another that would sum in
            # another order.
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.NONE
        context = checked(self._engine.create_execution_context(config), "make an execution context")
        checked(context.set_optimization_profile_async(profile, self._device.stream), f"select profile {profile}")
        self._device.wait()
        for name, memory in self._weights.items():
            checked(context.set_tensor_address(name, memory.address), f"bind the weights {name}")
        return context

    def _enqueue(self, context: ExecutionContext, run: RunInputs) -> None:
        for name, array in run.arrays.items():
            checked(context.set_input_shape(name, array.shape), f"set {name} to {array.shape}")
        self._set_cache_shapes(context, run)
        for name, address in self._buffers.addresses(run).items():
            checked(context.set_tensor_address(name, address), f"bind {name}")
        activations = self._buffers.reserve_activations(context.update_device_memory_size_for_shapes())
        context.set_device_memory(activations.address, activations.nbytes)
        checked(context.execute_async_v3(self._device.stream), "run the engine")

    def _set_cache_shapes(self, context: ExecutionContext, run: RunInputs) -> None:
        shape = (run.num_blocks, *self._buffers.block_shape)
        for name in self._buffers.caches:
            checked(context.set_input_shape(f"past_{name}", shape), f"set past_{name} to {shape}")


def _sizes(run: RunInputs) -> tuple[int, ...]:
    """What of a decode a captured graph has fixed, beside addresses that never change."""
    return run.first_block, run.num_blocks, *(size for array in run.arrays.values() for size in array.shape)
