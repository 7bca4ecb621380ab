"""Where the parts of a KV cache block lie in the memory of the cpu target."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from inflight.engine_format.cpu_kv_cache import key_bytes, value_bytes
from inflight.engine_format.manifest import EngineManifest
from inflight.errors import EngineError


class CacheBlocks:
    """Blocks of the KV cache at `address`: layer after layer, all blocks of keys and then all blocks of values.

    Raises EngineError where the manifest's sizes are not those of this layout.
    """

    def __init__(self, address: int, num_blocks: int, manifest: EngineManifest) -> None:
        cache, model = manifest.kv_cache, manifest.model
        kinds, heads, size = model.cached_rows
        sizes = (key_bytes, value_bytes)[:kinds]
        self._parts = [part(heads, size, cache.dtype) * cache.tokens_per_block for part in sizes]
        self._layers = model.num_hidden_layers
        self._num_blocks = num_blocks
        if sum(self._parts) * self._layers != cache.bytes_per_block:
            raise EngineError(
                f"A block of the KV cache has {cache.bytes_per_block:,} bytes, which are not those of its keys and "
                "values: blocks cannot be offloaded."
            )
        memory = (ctypes.c_char * (num_blocks * cache.bytes_per_block)).from_address(address)
        self._memory = memoryview(memory).cast("B")

    def copy_out(self, block: int) -> bytes:
        """The parts of a block, one behind the other."""
        return b"".join(self._memory[start:end] for start, end in self._places(block))

    def copy_in(self, block: int, data: bytes) -> None:
        taken = 0
        for start, end in self._places(block):
            self._memory[start:end] = data[taken : taken + end - start]
            taken += end - start

    def _places(self, block: int) -> Iterator[tuple[int, int]]:
        """Begin and end of each part."""
        region = 0
        for _ in range(self._layers):
            for part in self._parts:
                start = region + block * part
                yield start, start + part
                region += self._num_blocks * part
