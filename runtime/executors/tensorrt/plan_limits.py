"""Whether a plan was compiled for the sizes and limits of its manifest: it says so itself, by its profiles."""

from __future__ import annotations

from pathlib import Path

from inflight.engine_format.manifest import EngineManifest
from inflight.engine_format.tensorrt_facts import BLOCKS
from inflight.errors import EngineError
from inflight.runtime.executors.tensorrt.api import CudaEngine
from inflight.runtime.kv_cache.budget import blocks_per_sequence
from inflight.runtime.loading.rebuild import rebuild_hint


def check_limits(engine: CudaEngine, manifest: EngineManifest, path: Path) -> None:
    """Raises EngineError naming every size that differs: memory is reserved by the manifest, and the scheduler makes
    steps up to its limits."""
    # The last profile takes everything.
    last = engine.num_optimization_profiles - 1

    def greatest(tensor: str) -> tuple[int, ...]:
        return tuple(engine.get_tensor_profile_shape(tensor, last)[2])

    limits, model, kv = manifest.limits, manifest.model, manifest.kv_cache
    blocks, heads, tokens_per_block, head_size = greatest("past_key.0")
    pairs = {
        "limits.max_num_tokens": (limits.max_num_tokens, *greatest("token_ids")),
        "limits.max_logit_rows": (limits.max_logit_rows, *greatest("logit_rows")),
        "kv_cache.tokens_per_block": (kv.tokens_per_block, tokens_per_block),
        "model.num_key_value_heads": (model.num_key_value_heads, heads),
        "model.head_size": (model.head_size, head_size),
        "model.vocab_size": (model.vocab_size, tuple(engine.get_tensor_shape("logits"))[-1]),
    }
    if kv.layout == BLOCKS:
        sequences, blocks_of_each = greatest("block_tables")
        pairs["limits.max_batch_size"] = limits.max_batch_size, sequences
        pairs["blocks of limits.max_seq_len"] = blocks_per_sequence(manifest), blocks_of_each
    else:  # a slot is a block as long as the longest sequence
        pairs["limits.max_batch_size"] = limits.max_batch_size, blocks
        pairs["limits.max_seq_len"] = limits.max_seq_len, tokens_per_block
    wrong = [f"{name} is {told:,} and not {built:,}" for name, (told, built) in pairs.items() if told != built]
    if wrong:
        raise EngineError(
            f"{path} was compiled for another engine: {', '.join(wrong)}.",
            rebuild_hint(manifest.recipe, manifest.target, path.parent),
        )
