"""Copies blocks that leave the pool to a store, and back when a prompt meets them."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import cast

import msgspec

from inflight.engine_format.manifest_file import manifest_digest
from inflight.errors import EngineError
from inflight.runtime.engine.stats import OffloadCounts
from inflight.runtime.executors.base import CopyingExecutor, Executor
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.kv_cache.offload.costs import TransferCosts
from inflight.runtime.kv_cache.offload.directory import OwnedDirectory
from inflight.runtime.kv_cache.offload.memory import MemoryStore
from inflight.runtime.kv_cache.offload.store import BlockStore

# What a server that is asked to stop may take; the blocks used last are written first.
_CLOSING_S = 5.0

_log = logging.getLogger(__name__)


class BlockOffload:
    """Between the memory of an executor and a store, on the thread that schedules, while no step is computed.

    The files never harm who serves: where they cannot be read or written, offloading is switched off with one warning.
    `costs` knows what copies take, and is told what steps take; `counts` says what happened.
    """

    def __init__(self, executor: CopyingExecutor, store: BlockStore | MemoryStore, tokens_per_block: int) -> None:
        self._executor = executor
        self._store: BlockStore | MemoryStore | None = store
        self.costs = TransferCosts(tokens_per_block)
        self._counts = OffloadCounts(slots=store.num_slots)

    @property
    def counts(self) -> OffloadCounts:
        """As they are now."""
        return replace(self._counts, blocks=0 if self._store is None else len(self._store))

    def keep(self, block: int, key: bytes, rank: int = 0) -> None:
        """Copy a block whose contents are complete, and about to be given up. `rank` as in BlockStore.put."""
        if self._store is None:
            return
        if key in self._store:
            self._store.touch([key])
            return
        data = self._executor.copy_out(block)
        try:
            self._store.put(key, data, rank)
        except OSError as error:
            self._switch_off(error)
            return
        self._counts.blocks_written += 1
        self._counts.bytes_written += len(data)

    def knows(self, key: bytes) -> bool:
        """Whether a copy is kept; it may turn out to be damaged."""
        return self._store is not None and key in self._store

    def bring(self, key: bytes, allocate: Callable[[], int]) -> int | None:
        """Copy a block that is kept into one of the pool, which `allocate` gives, and return that; None: no copy is
        kept, or none that is whole."""
        if self._store is None:
            return None
        began = time.perf_counter()
        try:
            data = self._store.get(key)
        except OSError as error:
            self._switch_off(error)
            return None
        if data is None:
            return None
        read_s = time.perf_counter() - began
        # What this evicts is a cost of the room, which computing needs as well.
        block = allocate()
        began = time.perf_counter()
        self._executor.copy_in(block, data)
        self.costs.copied(read_s + time.perf_counter() - began)
        self._counts.blocks_read += 1
        self._counts.bytes_read += len(data)
        return block

    def is_worth(self, *, preempted: bool) -> bool:
        """Whether to bring blocks back. Those of a preempted sequence are computed again where that is predicted to be
        faster; a prompt takes what the store has, for whose sake somebody gave it."""
        if preempted and not self.costs.copying_is_faster:
            self._counts.recomputed += 1
            return False
        return True

    def used(self, keys: Sequence[bytes]) -> None:
        """The chain `keys` was used: its end goes before its start."""
        if self._store is not None:
            self._store.touch(reversed(keys))

    def close(self, cached: Iterable[tuple[int, bytes]] = ()) -> None:
        """Keep the blocks `cached`, most recently used first, as long as that is quick. Calling it twice is
        harmless."""
        if self._store is None:
            return
        deadline = time.monotonic() + _CLOSING_S
        blocks = list(islice(cached, self._store.num_slots)) if self._store.outlives else []
        for place, (block, key) in enumerate(blocks):
            self.keep(block, key, len(blocks) - place)
            if self._store is None or time.monotonic() > deadline:
                break
        if self._store is not None:
            self._store.close()
            self._store = None

    def _switch_off(self, error: OSError) -> None:
        if self._store is not None:
            where, reason = self._store.place, error.strerror or error
            _log.warning("KV cache blocks are not offloaded to %s any more: %s.", where, reason)
            self._store.close()
            self._store = None


def open_offload(executor: Executor, settings: KvOffload, *, prefix_caching: bool) -> BlockOffload | None:
    """None, with a warning, where the files cannot be had for now (a full disk, say).

    Raises EngineError where that is not possible with this engine, for a limit below one block, or as OwnedDirectory.
    """
    if not hasattr(executor, "copy_out"):
        raise EngineError(
            f"Engines of target {executor.manifest.target} cannot offload KV cache blocks.",
            "Leave --kv-offload-dir and --kv-offload-bytes out, or build the engine for the target cpu.",
        )
    if not prefix_caching:
        raise EngineError(
            "KV cache blocks are kept for the prefix cache, which is off.",
            "Leave --kv-offload-dir and --kv-offload-bytes out, or prefix caching on.",
        )
    copying = cast(CopyingExecutor, executor)
    size = len(copying.copy_out(0))
    tokens = executor.manifest.kv_cache.tokens_per_block
    if settings.directory is None:
        if settings.bytes < size:
            raise _too_little(settings, size)
        return BlockOffload(copying, MemoryStore(settings.bytes // size), tokens)
    num_slots = BlockStore.slots_within(settings.bytes, size)
    if num_slots < 1:
        raise _too_little(settings, BlockStore.bytes_of(1, size))
    facts = manifest_digest(msgspec.to_builtins(executor.manifest))
    identity = hashlib.sha256(f"{facts} {copying.copies_of}".encode()).digest()
    directory = None
    try:
        directory = OwnedDirectory(settings.directory)
        return BlockOffload(copying, BlockStore(directory, identity, size, num_slots), tokens)
    except OSError as error:
        _log.warning("KV cache blocks are not offloaded to %s: %s.", settings.directory, error.strerror or error)
        if directory is not None:
            directory.close()
        return None


def _too_little(settings: KvOffload, least: int) -> EngineError:
    return EngineError(
        f"Offloaded KV cache blocks may take {settings.bytes:,} bytes; one block takes {least:,}.",
        "Give a larger --kv-offload-bytes.",
    )
