"""The paged KV cache of a cuda engine: where each layer's keys and values lie, and their scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from inflight.build.graph.dtypes import facts_of
from inflight.build.graph.values import dtype_of, name_of, shape_of
from inflight.build.targets.cuda.places import TRITON_TYPES, UNUSED, Places
from inflight.engine_format.cuda_facts import Operand

_CACHES = ("key_cache.", "value_cache.")
# The kernels' names of the types that are no plain numbers.
_QUANTIZED = {"int8": "int8", "float8_e4m3fn": "float8"}
_SCALES = ".scales"
_SCALE_BYTES = 4


def cache_places(inputs: Sequence[ir.Value]) -> tuple[Mapping[str, int], int]:
    """Bytes of a block that lie before each cache, by its name, and before the scales of an int8 cache; those of all.

    A cache is [blocks, KV heads, tokens per block, head size]; a layer of latent attention has one, of one head. In the
    graph, a token's head of an int8 cache ends with its float32 scale; here scales follow the levels of all blocks,
    [blocks, KV heads, tokens per block].
    """
    places, total = {}, 0
    for value in inputs:
        name = name_of(value)
        if not name.startswith(_CACHES):
            continue
        _, heads, tokens, size = (0 if isinstance(dim, str) else dim for dim in shape_of(value))
        scaled = facts_of(dtype_of(value)).name == "int8"
        places[name] = total
        total += heads * tokens * (size - _SCALE_BYTES if scaled else size) * int(dtype_of(value).itemsize)
        if scaled:
            places[name + _SCALES] = total
            total += heads * tokens * _SCALE_BYTES
    return places, total


def cache_kind(cache: ir.Value) -> str:
    """bf16, fp32, int8 or float8, as `attention_variant` names it."""
    name = facts_of(dtype_of(cache)).name
    return _QUANTIZED.get(name) or TRITON_TYPES[name]


def cache_operands(write: ir.Node, places: Places) -> dict[str, Operand]:
    """Keys, values and their scales, of the RopeCacheWrite that writes them."""
    operands = {}
    for place, kind in ((8, "key"), (9, "value")):
        cache = write.inputs[place]
        assert cache is not None, f"{write.name} has caches from the start"
        operands[f"{kind}_cache"] = places.of(cache)
        operands[f"{kind}_scales"] = _scales(cache, write.attributes[f"{kind}_factor"].as_float(), places)
    return operands


def latent_operands(write: ir.Node, places: Places) -> dict[str, Operand]:
    """Rows and their scales, of the LatentCacheWrite that writes them."""
    cache = write.inputs[9]
    assert cache is not None, f"{write.name} has a cache from the start"
    return {"cache": places.of(cache), "scales": _scales(cache, write.attributes["key_factor"].as_float(), places)}


def _scales(cache: ir.Value, factor: float, places: Places) -> Operand:
    """One number for a float8 cache, an array for int8, nothing for plain numbers."""
    kind = cache_kind(cache)
    if kind == "int8":
        return places.of_cache(name_of(cache) + _SCALES)
    if kind != "float8":
        return UNUSED
    constant = ir.Value(
        name=f"cache_factor.{float(factor).hex()}",
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape((1,)),
        const_value=ir.tensor(np.array([factor], np.float32)),
    )
    return places.of(constant)
