"""Device memory of a TensorRT engine: inputs and logits at their greatest size, caches, activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.executors.gpu.device import Device, DeviceMemory
from inflight.runtime.executors.tensorrt.inputs import RunInputs

Floats = npt.NDArray[np.float32]
_INT_BYTES, _FLOAT_BYTES = 4, 4


class DeviceBuffers:
    """The device owns them. Addresses never change but that of the activations, which grow.

    `generation` counts how often they did.
    """

    def __init__(
        self, manifest: EngineManifest, num_blocks: int, input_sizes: Mapping[str, int], device: Device
    ) -> None:
        limits, model = manifest.limits, manifest.model
        self._device = device
        self._vocab_size = model.vocab_size
        self.inputs = {name: device.allocate(size * _INT_BYTES) for name, size in input_sizes.items()}
        self.logits = device.allocate(limits.max_logit_rows * model.vocab_size * _FLOAT_BYTES)
        # One cache of one layer holds bytes_per_block / (2 * layers) of each block.
        self.block_shape = (model.num_key_value_heads, manifest.kv_cache.tokens_per_block, model.head_size)
        self.block_bytes = manifest.kv_cache.bytes_per_block // (2 * model.num_hidden_layers)
        self.caches = {
            f"{kind}.{layer}": device.allocate(num_blocks * self.block_bytes, zeroed=True)
            for layer in range(model.num_hidden_layers)
            for kind in ("key", "value")
        }
        self.activations = device.allocate(0)
        self.generation = 0

    def write_inputs(self, run: RunInputs) -> None:
        for name, array in run.arrays.items():
            self.inputs[name].write(array)

    def read_logits(self, run: RunInputs) -> Floats:
        """float32 [logit rows, vocab] of the run that the stream was given last; waits for it."""
        rows = np.empty((len(run.arrays["logit_rows"]), self._vocab_size), np.float32)
        self.logits.read(rows)
        self._device.wait()
        return rows[: run.num_logit_rows]

    def reserve_activations(self, nbytes: int) -> DeviceMemory:
        if nbytes > self.activations.nbytes:
            self._device.wait()
            self._device.release(self.activations)
            self.activations = self._device.allocate(nbytes)
            self.generation += 1
        return self.activations

    def addresses(self, run: RunInputs) -> dict[str, int]:
        """Of every binding but weights. Caches start at the run's first block, and are updated in place."""
        addresses: dict[str, Any] = {name: memory.address for name, memory in self.inputs.items()}
        addresses["logits"] = self.logits.address
        for name, memory in self.caches.items():
            place = memory.address + run.first_block * self.block_bytes
            addresses[f"past_{name}"] = addresses[f"present_{name}"] = place
        return addresses
