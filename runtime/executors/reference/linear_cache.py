"""The paged KV pool of the reference target, and the linear cache of one sequence that its network reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.engine_format.manifest import EngineManifest

Floats: TypeAlias = npt.NDArray[np.float32]
# Of the network's caches; a layer with latent attention has the first alone.
KINDS = ("key", "value")


class LinearCache:
    """float32 [layers, kinds, 1, kv_heads, max_seq_len, head_size]: the rows of one sequence by position. The kinds are
    keys and values, or latents alone.

    The network reads and writes the same memory: its input and its output are bound to it.
    """

    def __init__(self, manifest: EngineManifest) -> None:
        model = manifest.model
        kinds, heads, size = model.cached_rows
        shape = (1, heads, manifest.limits.max_seq_len, size)
        self.rows: Floats = np.zeros((model.num_hidden_layers, kinds, *shape), np.float32)

    def bind(self, binding: Any) -> None:
        """Bind past_key.{i}, past_value.{i} and their present counterparts of an onnxruntime.IOBinding."""
        for layer, caches in enumerate(self.rows):
            for kind, cache in zip(KINDS, caches, strict=False):
                place = ("cpu", 0, np.float32, cache.shape, cache.ctypes.data)
                binding.bind_input(f"past_{kind}.{layer}", *place)
                binding.bind_output(f"present_{kind}.{layer}", *place)


class PagedPool:
    """float32 [blocks, layers, kinds, kv_heads, tokens_per_block, head_size]."""

    def __init__(self, manifest: EngineManifest, num_blocks: int) -> None:
        model = manifest.model
        self._block_size = manifest.kv_cache.tokens_per_block
        kinds, heads, size = model.cached_rows
        block = (model.num_hidden_layers, kinds, heads, self._block_size, size)
        self._blocks: Floats = np.zeros((num_blocks, *block), np.float32)

    def copy_out(self, block: int) -> bytes:
        copy: bytes = self._blocks[block].tobytes()
        return copy

    def copy_in(self, block: int, data: bytes) -> None:
        self._blocks[block] = np.frombuffer(data, np.float32).reshape(self._blocks.shape[1:])

    def gather(self, block_table: Sequence[int], end: int, cache: LinearCache) -> None:
        """Copy positions 0 .. end - 1 of a sequence into `cache`."""
        for position in range(0, end, self._block_size):
            count = min(self._block_size, end - position)
            block = self._blocks[block_table[position // self._block_size]]
            cache.rows[:, :, 0, :, position : position + count] = block[:, :, :, :count]

    def scatter(self, block_table: Sequence[int], start: int, end: int, cache: LinearCache) -> None:
        """Copy positions start .. end - 1 of `cache` into the sequence's blocks."""
        position = start
        while position < end:
            slot = position % self._block_size
            count = min(self._block_size - slot, end - position)
            block = self._blocks[block_table[position // self._block_size]]
            block[:, :, :, slot : slot + count] = cache.rows[:, :, 0, :, position : position + count]
            position += count
