"""What the manifest of a cpu engine says beside the common facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from inflight.engine_format.cpu_abi import ABI
from inflight.engine_format.manifest import Facts
from inflight.engine_format.target_facts import TargetFacts

# Names of what kernels/cache.h lays out: keys in groups of lanes; with int8, a float32 scale behind each head.
KV_LAYOUT, KV_LAYOUT_WITH_SCALES = "k-groups", "k-groups-scales"


class Variant(Facts, frozen=True, kw_only=True):
    """One compiled library of a rank. The loader takes the first whose features the machine has.

    digest: hex SHA-256 of the code's source and compiler, which the library holds too and which its file is named by: a
    process that has an engine open and opens another one at the same place must not get the library that it has.
    """

    rank: int
    cpu: str
    file: str
    digest: str
    triple: str
    required_features: tuple[str, ...]


class CpuFacts(TargetFacts, frozen=True, kw_only=True):
    """weights_file: the packed weights, as all variants read them. variants: best first."""

    interface: ClassVar[int] = ABI

    weights_file: str
    variants: tuple[Variant, ...]

    def loaded_files(self) -> Iterable[str]:
        return self.weights_file, *(variant.file for variant in self.variants)

    def code_for(self) -> Sequence[str]:
        return [variant.cpu for variant in self.variants]
