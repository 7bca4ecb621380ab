"""Attention over the paged cache, and what fills it: decoding is bound by memory, prompts by arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from compare.gpu.case import Array, Call, Case, Peer, levels, numbers, zeros
from compare.gpu.models import Model
from inflight.build.gpu_kernels.kernels import paged_prefill
from inflight.build.gpu_kernels.prefill_tiles import prefill_tiles
from inflight.build.gpu_kernels.variants import attention_variant, listed_variant, rope_variant

CONTEXT = 4096
BATCHES = (1, 32)
PROMPT = 4096
BLOCK = 64
SPLIT = 256
KV_BYTES = {"bf16": 2, "float8": 1, "int8": 1}


def attention_cases(model: Model, sm: int) -> Iterator[Case]:
    for sequences in BATCHES:
        for kv in KV_BYTES:
            yield _decode(model, sequences, kv)
    yield _prefill(model, sm)
    for rows in (*BATCHES, PROMPT):
        yield _rope(model, rows)


def _heads(model: Model) -> dict[str, Any]:
    return {"num_heads": model.num_heads, "num_kv_heads": model.num_kv_heads, "head_size": model.head_size}


def _attention(name: str, model: Model, sequences: int, tokens: int, context: int) -> Peer:
    sizes = {"sequences": sequences, "tokens": tokens, "context": context}
    return Peer(name, "attention", {**sizes, **_heads(model)})


def _decode(model: Model, sequences: int, kv: str) -> Case:
    variant = listed_variant(attention_variant(**_heads(model), kv=kv, tokens_per_block=BLOCK, split_tokens=SPLIT))
    sizes = {"rows": sequences, "items": sequences * -(-CONTEXT // SPLIT)}
    width = model.num_kv_heads * model.head_size
    token_bytes = 2 * (width * KV_BYTES[kv] + (4 * model.num_kv_heads if kv == "int8" else 0))
    return Case(
        model.name,
        f"decode attention, {kv} cache, {sequences} x {CONTEXT}",
        (Call("listed_decode", variant, sizes, {"block_table_stride": CONTEXT // BLOCK, "rows": sequences}),),
        partial(_decode_arrays, model, sequences, kv),
        moved=sequences * (CONTEXT * token_bytes + 4 * model.num_heads * model.head_size),
        operations=4 * sequences * CONTEXT * model.num_heads * model.head_size,
        peer=_attention("scaled_dot_product_attention, bf16", model, sequences, 1, CONTEXT),
    )


def _decode_arrays(model: Model, sequences: int, kv: str) -> dict[str, Array]:
    splits, rows = -(-CONTEXT // SPLIT), sequences
    return {
        **_cache(model, sequences, CONTEXT, kv),
        "q": numbers((rows, model.num_heads * model.head_size)),
        "positions": np.full(rows, CONTEXT - 1, np.int32),
        "sequence_of_row": np.arange(rows, dtype=np.int32),
        "bias": zeros((1,)),
        "sinks": zeros((1,)),
        **{name: zeros((1,)) for name in ("factors", "stored", "low", "high", "level_scales")},
        **{name: zeros((rows,), "int32") for name in ("order", "heads_arrived")},
        "levels": zeros((1,), "int8"),
        "first_items": np.arange(rows, dtype=np.int32) * splits,
        "partials": zeros((rows * splits, model.num_heads, model.head_size)),
        "maxima": zeros((rows * splits, model.num_heads)),
        "totals": zeros((rows * splits, model.num_heads)),
        "arrived": zeros((rows * splits, model.num_kv_heads, 2), "int32"),
        "y": zeros((rows, model.num_heads * model.head_size), "bf16"),
    }


def _prefill(model: Model, sm: int) -> Case:
    heads = _heads(model)
    variant = attention_variant(**heads, tokens_per_block=BLOCK)
    block_m = int(paged_prefill.tune(sm, variant).constants["block_m"])
    begins, ends = prefill_tiles([PROMPT], block_m // (model.num_heads // model.num_kv_heads))
    width = model.num_heads * model.head_size
    return Case(
        model.name,
        f"prompt attention, {PROMPT} tokens",
        (Call("paged_prefill", variant, {"tiles": len(begins)}, {"block_table_stride": PROMPT // BLOCK}),),
        partial(_prefill_arrays, model, begins, ends),
        moved=PROMPT * (4 * width + 4 * model.num_kv_heads * model.head_size),
        operations=4 * PROMPT * (PROMPT + 1) // 2 * width,
        peer=_attention("scaled_dot_product_attention", model, 1, PROMPT, PROMPT),
    )


def _prefill_arrays(model: Model, begins: Array, ends: Array) -> dict[str, Array]:
    width = model.num_heads * model.head_size
    return {
        **_cache(model, 1, PROMPT, "bf16"),
        "q": numbers((PROMPT, width)),
        "positions": np.arange(PROMPT, dtype=np.int32),
        "sequence_of_row": zeros((PROMPT,), "int32"),
        "bias": zeros((1,)),
        "sinks": zeros((1,)),
        "tile_begins": begins,
        "tile_ends": ends,
        "y": zeros((PROMPT, width), "bf16"),
    }


def _rope(model: Model, rows: int) -> Case:
    variant = rope_variant(**_heads(model), tokens_per_block=BLOCK)
    return Case(
        model.name,
        f"RoPE + cache write, {rows} rows",
        (Call("rope_cache_write", variant, {"rows": rows}, {"block_table_stride": CONTEXT // BLOCK}),),
        partial(_rope_arrays, model, rows),
        moved=rows * 4 * model.qkv_width + rows * 4 * model.head_size + rows * 12,
    )


def _rope_arrays(model: Model, rows: int) -> dict[str, Array]:
    half = model.head_size // 2
    prompt = rows == PROMPT
    return {
        **_cache(model, 1 if prompt else rows, CONTEXT, "bf16"),
        "qkv": numbers((rows, model.qkv_width)),
        "q_norm": numbers((model.head_size,)),
        "k_norm": numbers((model.head_size,)),
        "cos": numbers((CONTEXT, half), "fp32"),
        "sin": numbers((CONTEXT, half), "fp32"),
        "q_factors": zeros((1,)),
        "positions": np.arange(rows, dtype=np.int32) if prompt else np.full(rows, CONTEXT - 1, np.int32),
        "sequence_of_row": zeros((rows,), "int32") if prompt else np.arange(rows, dtype=np.int32),
        "q": zeros((rows, model.num_heads * model.head_size), "bf16"),
    }


def _cache(model: Model, sequences: int, context: int, kv: str) -> dict[str, Array]:
    """Caches that `sequences` fill, their blocks in random order."""
    blocks = sequences * context // BLOCK
    shape = (blocks, model.num_kv_heads, BLOCK, model.head_size)
    make = numbers if kv == "bf16" else levels
    scales = shape[:3] if kv == "int8" else (1,)
    tables = np.random.default_rng().permutation(blocks).astype(np.int32).reshape(sequences, -1)
    return {
        "key_cache": make(shape),
        "value_cache": make(shape),
        "key_scales": np.abs(numbers(scales, "fp32")),
        "value_scales": np.abs(numbers(scales, "fp32")),
        "block_tables": tables,
    }
