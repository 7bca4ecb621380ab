"""The record of one compiled kernel: everything a launch needs, and the compiler's report."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import ConfigDict

from inflight.records import Record


class ArtifactArgument(Record):
    """A run-time argument, in order; `alignment` is what its address (pointer) or value (integer) is a multiple of."""

    name: str
    type: str
    alignment: int


class ArtifactExtent(Record):
    """ceil(size / per); a name is that of a size given at launch."""

    size: str | int
    per: int


class Artifact(Record):
    """One kernel for one GPU generation. JSON carries the cubin in base64.

    A launch passes `arguments` in order and then two null pointers (Triton's scratch buffers, which no kernel here
    uses), with `threads` threads and `shared_bytes` of dynamic shared memory a block. Sizes in bytes are per block
    (shared) or per thread (stack, spills). `ptx` is what the cubin was assembled from, for loaders that assemble it
    themselves. `waits`: it waits by itself for the launch before it, and may be started before that has ended
    (programmatic dependent launch).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    kernel: str
    entry: str
    sm: int
    arguments: tuple[ArtifactArgument, ...]
    types: dict[str, str]
    constants: dict[str, int | float | bool]
    grid: tuple[tuple[ArtifactExtent, ...], ...]
    threads: int
    num_stages: int
    shared_bytes: int
    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    waits: bool
    tools: dict[str, str]
    cubin: bytes
    ptx: str

    def grid_for(self, sizes: Mapping[str, int]) -> tuple[int, int, int]:
        """Blocks along x, y, z for the launch's sizes. Raises KeyError for a size that is not given."""
        axes = [math.prod(-(-_number(extent.size, sizes) // extent.per) for extent in axis) for axis in self.grid]
        x, y, z = [*axes, 1, 1][:3]
        return x, y, z


def _number(size: str | int, sizes: Mapping[str, int]) -> int:
    return sizes[size] if isinstance(size, str) else size
