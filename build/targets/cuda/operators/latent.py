"""Launches of latent attention: products of heads, rotation and cache write, and attention over rows of the cache."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from inflight.build.gpu_kernels.kernels import head_linear as head_kernel
from inflight.build.gpu_kernels.kernels import latent_attention, latent_cache_write
from inflight.build.gpu_kernels.kernels.split_sums import FEW_ROWS
from inflight.build.graph.values import dtype_of, shape_of
from inflight.build.targets.cuda.kv_cache import cache_kind, latent_operands
from inflight.build.targets.cuda.launch_plan import PlannedLaunch
from inflight.build.targets.cuda.operators.attention import SPLIT_TOKENS, STRIDE, generated_rows, parts_of_splits
from inflight.build.targets.cuda.operators.rows import given, rows_of
from inflight.build.targets.cuda.places import Places, triton_type, width_of
from inflight.engine_format.cuda_facts import Operand
from inflight.engine_format.manifest import Limits

(_HEAD,) = head_kernel.SPECS
(_WRITE,) = latent_cache_write.SPECS
_DECODE, _PREFILL = latent_attention.SPECS
_SIZES = ("num_heads", "rank", "rotary_size")


def head_linear(node: ir.Node, places: Places) -> PlannedLaunch:
    """HeadLinear."""
    x, weight = given(node, 0), given(node, 1)
    heads, n, k = (int(dim) for dim in shape_of(weight))
    few, many = (
        head_kernel.head_variant(heads, n, k, node.attributes["row_size"].as_int(), few=few, x=triton_type(x))
        for few in (True, False)
    )
    operands = {"x": places.of(x), "weight": places.of(weight), "y": places.of(node.outputs[0])}
    operands["rows"] = Operand(place="size", name="rows")
    return PlannedLaunch(_HEAD, ((FEW_ROWS, few), (None, many)), operands, rows_of(node))


def write(node: ir.Node, places: Places, tokens_per_block: int) -> PlannedLaunch:
    """LatentCacheWrite. Its queries have the type in which attention reads them, whose rows the plan has room for."""
    q, met, kv, norm, cos, sin = (given(node, place) for place in range(6))
    (attention,) = {user for user in node.outputs[0].consumers() if user.op_type == "PagedLatentAttention"}
    sizes = _sizes(node)
    variant = latent_cache_write.latent_write_variant(
        *sizes,
        width_of(q) // sizes[0],
        kv=cache_kind(given(node, 9)),
        act=triton_type(attention.outputs[0]),
        norm=triton_type(norm),
        tokens_per_block=tokens_per_block,
        epsilon=node.attributes["epsilon"].as_float(),
    )
    operands = {
        **{name: places.of(value) for name, value in (("q", q), ("met", met), ("kv", kv), ("norm", norm))},
        **{name: places.of(value) for name, value in (("cos", cos), ("sin", sin))},
        "positions": places.of(given(node, 6)),
        "sequence_of_row": places.of(given(node, 7)),
        "block_tables": places.of(given(node, 8)),
        "queries": places.of(node.outputs[0]),
        **latent_operands(node, places),
        "block_table_stride": STRIDE,
    }
    return PlannedLaunch.of(_WRITE, variant, operands, "tokens")


def attend(node: ir.Node, places: Places, tokens_per_block: int, limits: Limits) -> list[PlannedLaunch]:
    """PagedLatentAttention: the splits of generated tokens, and the tiles of prompts."""
    written, y = given(node, 0).producer(), node.outputs[0]
    assert written is not None and written.op_type == "LatentCacheWrite", f"{node.name} reads queries of another kind"
    heads, rank, rotary = _sizes(node)
    act = triton_type(y)
    kinds: dict[str, Any] = {"kv": cache_kind(given(written, 9)), "act": act, "tokens_per_block": tokens_per_block}
    kinds["scale"] = node.attributes["scale"].as_float()
    decoding: dict[str, Any] = {"split_tokens": SPLIT_TOKENS, "most_rows": generated_rows(limits)}
    decode = latent_attention.latent_variant(heads, rank, rotary, **kinds, **decoding)
    prefill = latent_attention.latent_variant(heads, rank, rotary, **kinds)

    q, of_row = places.of(given(node, 0)), -(-heads // latent_attention.HEADS_AT_ONCE)
    parts = parts_of_splits(places, heads, rank, of_row, limits)
    moved_q = Operand(place=q.place, at=q.at, row_bytes=heads * (rank + rotary) * int(dtype_of(y).itemsize))
    shared = {**latent_operands(written, places), "block_tables": places.of(given(node, 4))}
    shared["block_table_stride"] = STRIDE
    paging = {"positions": given(node, 2), "sequence_of_row": given(node, 3)}
    of_rows = {name: places.of(value, by_row=True) for name, value in paging.items()}
    whole = {name: places.of(value) for name, value in paging.items()}
    tiles = {name: Operand(place="step", name=name) for name in ("tile_begins", "tile_ends")}
    of_rows |= {"q": moved_q, "y": places.of(y, by_row=True)}
    return [
        PlannedLaunch.of(_DECODE, decode, {**shared, **of_rows, **parts}, "generated"),
        PlannedLaunch.of(_PREFILL, prefill, {**shared, **whole, **tiles, "q": q, "y": places.of(y)}, "prompt_tiles"),
    ]


def _sizes(node: ir.Node) -> tuple[int, int, int]:
    heads, rank, rotary = (node.attributes[name].as_int() for name in _SIZES)
    return heads, rank, rotary
