"""The memory of a loaded engine, as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.kv_cache.budget import blocks_per_sequence

if TYPE_CHECKING:
    from rich.table import Table

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class SizedEngine(Protocol):
    """An Executor, or the plan of one before it is loaded."""

    @property
    def manifest(self) -> EngineManifest: ...

    @property
    def num_blocks(self) -> int: ...


def memory_table(executor: SizedEngine) -> Table:
    """Rows: weights, activations, KV cache; below, how many of the longest sequences fit at once."""
    from rich.table import Table

    manifest = executor.manifest
    cache, limits = manifest.kv_cache, manifest.limits
    tokens = executor.num_blocks * cache.tokens_per_block
    sequences = executor.num_blocks // blocks_per_sequence(manifest)
    cache_bytes = executor.num_blocks * cache.bytes_per_block
    rows = [
        ("weights", manifest.memory.weights_bytes, f"{manifest.model.num_parameters:,} parameters, memory-mapped"),
        ("activations", manifest.memory.workspace_bytes, f"a step of up to {limits.max_num_tokens:,} tokens"),
        (
            "KV cache",
            cache_bytes,
            f"{executor.num_blocks:,} blocks x {cache.tokens_per_block} = {tokens:,} tokens, {cache.dtype}",
        ),
    ]
    table = Table(title="Memory", caption=f"{sequences:,} sequences of {limits.max_seq_len:,} tokens fit at once")
    table.add_column("")
    table.add_column("size", justify="right")
    table.add_column("what")
    for name, size, what in rows:
        table.add_row(name, format_bytes(size), what)
    table.add_section()
    table.add_row("total", format_bytes(sum(size for _, size, _ in rows)), "")
    return table


def format_bytes(size: float) -> str:
    """1536 -> 1.5 KiB."""
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
