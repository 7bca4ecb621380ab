"""One memory budget, divided between the models that are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inflight.errors import InflightError
from inflight.records import Record
from inflight.runtime.kv_cache.budget import KvCacheBudget, blocks_per_sequence, plan_num_blocks
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.loading.memory_table import format_bytes
from inflight.triton_backend.models.names import ServedModel

_NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of one engine: of weights and workspace, of a KV cache for one sequence, and of one for a full batch."""

    fixed: int
    least: int
    most: int


class MemoryBudget(Record):
    """Bytes that all loaded models take together, and, where that is limited, their KV caches. `cache_tokens`: the
    most tokens of the cache of each."""

    total: int
    caches: int | None = None
    cache_tokens: int | None = None

    def divide(self, new: Sequence[ServedModel], loaded: Mapping[ServedModel, int]) -> dict[str, int]:
        """The bytes of the KV cache of each of `new`, which are loaded beside `loaded` (with the bytes of their
        caches). Each can hold one sequence of full length; what is left is divided in proportion to what a full batch
        takes beyond that.

        Raises InflightError, with the numbers, where one sequence of each does not fit.
        """
        needs = {model.name: needs_of(model, self.cache_tokens) for model in new}
        fixed = sum(each.fixed for each in needs.values())
        taken = sum(needs_of(model).fixed + cache for model, cache in loaded.items())
        room = self.total - taken - fixed
        if self.caches is not None:
            room = min(room, self.caches - sum(loaded.values()))
        least = sum(each.least for each in needs.values())
        if room < least:
            raise InflightError(
                f"{', '.join(needs)}: weights and workspace take {format_bytes(fixed)} and the KV cache of one "
                f"sequence of each {format_bytes(least)}; of the budget of {format_bytes(self.total)} what is loaded "
                f"({', '.join(model.name for model in loaded) or 'none'}) leave {format_bytes(max(0, room + fixed))}.",
                "Unload a model, or build engines with a smaller max_seq_len.",
            )
        wish = sum(each.most - each.least for each in needs.values())
        more = min(1.0, (room - least) / wish) if wish else 0.0
        return {name: each.least + int((each.most - each.least) * more) for name, each in needs.items()}


def needs_of(model: ServedModel, cache_tokens: int | None = None) -> Needs:
    """Raises EngineError for what is no engine, or where `cache_tokens` has no room for one sequence."""
    manifest = read_engine_directory(model.engine_dir).manifest
    limit = KvCacheBudget(tokens=cache_tokens, fraction=1.0)
    block = manifest.kv_cache.bytes_per_block
    most = plan_num_blocks(manifest, limit, _NO_LIMIT, model.engine_dir) * block
    fixed = manifest.memory.weights_bytes + manifest.memory.workspace_bytes
    return Needs(fixed, min(most, blocks_per_sequence(manifest) * block), most)
