"""Launches of attention: rotation and cache write of all rows, then generated tokens and tiles of prompts apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from inflight.build.gpu_kernels.kernels import listed_decode, paged_prefill, rope_cache_write
from inflight.build.gpu_kernels.spec import Variant
from inflight.build.gpu_kernels.variants import attention_variant, listed_variant, rope_variant
from inflight.build.graph.values import dtype_of
from inflight.build.passes.plan_memory import EARLY
from inflight.build.targets.cuda.kv_cache import cache_kind, cache_operands
from inflight.build.targets.cuda.launch_plan import PlannedLaunch
from inflight.build.targets.cuda.operators.quantized import rounding_of
from inflight.build.targets.cuda.operators.rows import given, input_of
from inflight.build.targets.cuda.places import UNUSED, Places, aligned, triton_type, width_of
from inflight.engine_format.cuda_facts import Operand
from inflight.engine_format.manifest import Limits

# Part of what decides a result's bits, so one number for all engines.
SPLIT_TOKENS = 256
_FLOAT_BYTES = 4
_ROW_STEP = 16
# Of an item and a program of it: of the group that begins there, and of the row.
_COUNTERS = 2
(_ROPE,) = rope_cache_write.SPECS
(_DECODE,) = listed_decode.SPECS
(_PREFILL,) = paged_prefill.SPECS
STRIDE = Operand(place="size", name="block_table_stride")
_HEADS = ("num_heads", "num_kv_heads", "head_size")


def generated_rows(limits: Limits) -> int:
    """As many generated tokens as scratch memory is for: a step seldom has more of them than sequences. Addresses of
    rows that are a multiple of this keep the alignment that kernels rely on."""
    return -(-min(limits.max_batch_size, limits.max_num_tokens) // _ROW_STEP) * _ROW_STEP


def rotate_and_write(node: ir.Node, places: Places, tokens_per_block: int) -> PlannedLaunch:
    """RopeCacheWrite. Its queries have the type in which attention reads them, whose rows the plan has room for."""
    qkv, q_norm, k_norm, cos, sin = (input_of(node, place) for place in range(5))
    q = node.outputs[0]
    factors = input_of(node, 10)
    assert qkv is not None, f"{node.name} has no rows"
    numbers = _numbers(node)
    variant = rope_variant(
        *(int(numbers[name]) for name in _HEADS),
        kv=cache_kind(given(node, 8)),
        act=_attention_type(node),
        qkv=triton_type(qkv),
        norm=None if q_norm is None else triton_type(q_norm),
        tokens_per_block=tokens_per_block,
        rotary_size=int(numbers["rotary_size"]),
        epsilon=None if q_norm is None else float(numbers["epsilon"]),
        norm_last=bool(numbers["norm_last"]),
        has_factors=factors is not None,
    )
    operands = {
        "qkv": places.of(qkv),
        "q_norm": places.of(q_norm),
        "k_norm": places.of(k_norm),
        "cos": places.of(cos),
        "sin": places.of(sin),
        "positions": places.of(given(node, 5)),
        "sequence_of_row": places.of(given(node, 6)),
        "block_tables": places.of(given(node, 7)),
        "q_factors": places.of(factors),
        "q": places.of(q),
        **cache_operands(node, places),
        "block_table_stride": STRIDE,
    }
    return PlannedLaunch.of(_ROPE, variant, operands, "tokens")


def attend(node: ir.Node, places: Places, tokens_per_block: int, limits: Limits) -> list[PlannedLaunch]:
    """PagedAttention: the splits of generated tokens, and the tiles of prompts."""
    write, y = given(node, 0).producer(), node.outputs[0]
    assert write is not None and write.op_type == "RopeCacheWrite", f"{node.name} reads queries of another operator"
    numbers, act = _numbers(node), triton_type(y)
    heads, kv_heads, size = (int(numbers[name]) for name in _HEADS)
    kinds: dict[str, Any] = {"kv": cache_kind(given(write, 8)), "act": act, "tokens_per_block": tokens_per_block}
    kinds |= {"scale": numbers["scale"], "soft_cap": numbers["softcap"]}
    kinds |= {name: int(numbers[name]) for name in ("window", "chunk")}
    sinks, bias = input_of(node, 6), input_of(node, 7)
    kinds["bias"] = None if bias is None else (width_of(bias), int(numbers["bias_origin"]))
    levels, rounding = _levels_of(y, places)
    decode = listed_variant(
        attention_variant(heads, kv_heads, size, **kinds, split_tokens=SPLIT_TOKENS),
        has_sinks=sinks is not None,
        most_rows=generated_rows(limits),
        levels=levels,
    )
    prefill = attention_variant(heads, kv_heads, size, **kinds, has_sinks=sinks is not None)

    row_bytes = width_of(y) * int(dtype_of(y).itemsize)
    q = places.of(given(node, 0))
    shared = {
        **cache_operands(write, places),
        "block_tables": places.of(given(node, 5)),
        "block_table_stride": STRIDE,
        "bias": places.of(bias),
        "sinks": places.of(sinks),
    }
    of_rows = {"positions": places.of(given(node, 3), by_row=True)}
    of_rows |= {"sequence_of_row": places.of(given(node, 4), by_row=True), "y": places.of(y, by_row=True)}
    of_rows["q"] = Operand(place=q.place, at=q.at, row_bytes=row_bytes)
    parts = parts_of_splits(places, heads, size, kv_heads, limits)
    # Its counters of rows lie behind those of splits.
    behind = _COUNTERS * kv_heads * _most_items(limits)
    places.need(counters=(behind + generated_rows(limits)) * _FLOAT_BYTES)
    of_rows["heads_arrived"] = Operand(place="counters", at=behind * _FLOAT_BYTES)
    tiles = {name: Operand(place="step", name=name) for name in ("tile_begins", "tile_ends")}
    whole = {"positions": places.of(given(node, 3)), "sequence_of_row": places.of(given(node, 4))}
    return [
        PlannedLaunch.of(_DECODE, decode, {**shared, **of_rows, **parts, **rounding}, "generated"),
        PlannedLaunch.of(_PREFILL, prefill, {**shared, **whole, **tiles, "q": q, "y": places.of(y)}, "prompt_tiles"),
    ]


def _levels_of(y: ir.Value, places: Places) -> tuple[Variant | None, dict[str, Operand]]:
    """How levels are made of y where attention makes them, and the operands of that."""
    early = [user for user in y.consumers() if EARLY in user.outputs[0].metadata_props]
    names = ("order", "factors", "stored", "low", "high", "levels", "level_scales")
    if not early:
        return None, dict.fromkeys(names, UNUSED)
    (node,) = early
    planned = rounding_of(node, y, places)
    ((_, variant),) = planned.choices
    operands = {name: planned.operands[name] for name in names[:5]}
    levels, scales = (places.of(value, by_row=True) for value in node.outputs)
    return variant, {**operands, "levels": levels, "level_scales": scales}


def parts_of_splits(places: Places, heads: int, head_size: int, of_item: int, limits: Limits) -> dict[str, Operand]:
    """The list of items and what `listed_decode` or `latent_decode` makes of each; an item has `of_item` programs."""
    items = _most_items(limits)
    entries, counters = items * heads, items * of_item * _COUNTERS
    sums = aligned(entries * _FLOAT_BYTES)
    places.need(scratch=2 * sums + entries * head_size * _FLOAT_BYTES, counters=counters * _FLOAT_BYTES)
    return {
        "first_items": Operand(place="step", name="first_items"),
        "maxima": Operand(place="scratch"),
        "totals": Operand(place="scratch", at=sums),
        "partials": Operand(place="scratch", at=2 * sums),
        "arrived": Operand(place="counters"),
        "rows": Operand(place="size", name="rows"),
    }


def _most_items(limits: Limits) -> int:
    return generated_rows(limits) * -(-limits.max_seq_len // SPLIT_TOKENS)


def _numbers(node: ir.Node) -> Mapping[str, int | float]:
    """The attributes of a node that has numbers alone."""
    kinds = {name: attribute.type for name, attribute in node.attributes.items()}
    return {
        name: node.attributes[name].as_int() if kind == ir.AttributeType.INT else node.attributes[name].as_float()
        for name, kind in kinds.items()
    }


def _attention_type(write: ir.Node) -> str:
    """The type of what attention makes, and so of its queries."""
    (attention,) = {user for user in write.outputs[0].consumers() if user.op_type == "PagedAttention"}
    return triton_type(attention.outputs[0])
