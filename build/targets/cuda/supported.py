"""What the kernels of the target take of each operator (build/graph/operators.py): inputs and attributes, by name.

What is not listed is refused, so that an input or attribute that an operator gets one day is not left out of the
mathematics without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from inflight.build.gpu_kernels.variants import LEAST_INNER
from inflight.build.graph.operators import DOMAIN, OPERATORS, XIELU
from inflight.errors import BuildError


@dataclass(frozen=True)
class Taken:
    """`only`: attributes that may have one value alone."""

    inputs: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    only: Mapping[str, int] = field(default_factory=dict)


_HEADS = ("num_heads", "num_kv_heads", "head_size", "key_factor", "value_factor")
_LATENT = ("num_heads", "rank", "rotary_size", "key_factor")
_PAGING = ("positions", "sequence_of_row", "block_tables")
TAKEN: Mapping[str, Taken] = {
    "EmbeddingLookup": Taken(("token_ids", "weight"), ("scale",)),
    "GatherRows": Taken(("x", "rows")),
    "RMSNorm": Taken(("x", "weight", "residual"), ("epsilon",)),
    "LayerNorm": Taken(("x", "weight", "bias"), ("epsilon",)),
    "QkvNorm": Taken(("qkv", "q_norm", "k_norm"), ("epsilon",)),
    "Activation": Taken(("x",), ("activation",)),
    "Xielu": Taken(("x",), XIELU),
    "RoundRows": Taken(("x",)),
    "Scale": Taken(("x",), ("factor",)),
    "SoftCap": Taken(("x",), ("cap",)),
    "ClipRows": Taken(("x",), ("low", "high")),
    "AddRows": Taken(("x", "residual"), ("factor",)),
    "Gate": Taken(("gate_rows", "up_rows"), ("activation",)),
    "GateWholeRows": Taken(("x", "gates")),
    "Linear": Taken(("x", "weight", "bias", "residual")),
    "GatedLinear": Taken(("x", "gate", "up", "gate_bias", "up_bias"), ("activation",)),
    "Experts": Taken(
        ("x", "fc", "proj", "logits", "residual", "fc_bias", "proj_bias", "choice_bias"),
        ("top_k", "routing", "epsilon", "scale", "activation", "groups", "top_groups"),
    ),
    "QuantizedExperts": Taken(
        (
            *("x", "x_scale", "fc", "fc_scale", "proj", "proj_scale", "logits", "residual", "fc_bias", "proj_bias"),
            *("fc_zero", "proj_zero", "fc_codebook", "proj_codebook", "fc_unit", "proj_unit", "choice_bias"),
        ),
        (
            *("top_k", "routing", "epsilon", "scale", "activation", "groups", "top_groups"),
            *("group_size", "inner_group_size", "rows", "experts"),
        ),
    ),
    "QuantizeRows": Taken(("x", "scale", "low", "high", "factors", "order"), ("type",)),
    "RMSNormQuantize": Taken(("x", "weight", "scale", "low", "high"), ("epsilon", "type")),
    "QuantizedLinear": Taken(
        ("x", "x_scale", "weight", "weight_scale", "bias", "zero", "residual", "codebook", "unit"), ("group_size",)
    ),
    "QuantizedGatedLinear": Taken(
        (
            *("x", "x_scale", "gate", "gate_scale", "up", "up_scale", "gate_bias", "up_bias"),
            *("gate_zero", "up_zero", "codebook", "gate_unit", "up_unit"),
        ),
        ("activation", "group_size"),
    ),
    "RopeCacheWrite": Taken(
        ("qkv", "q_norm", "k_norm", "cos", "sin", *_PAGING, "key_cache", "value_cache", "q_factors"),
        (*_HEADS, "rotary_size", "epsilon", "norm_last"),
    ),
    "HeadLinear": Taken(("x", "weight"), ("row_size",)),
    "LatentCacheWrite": Taken(
        ("q", "met", "kv", "norm", "cos", "sin", *_PAGING, "cache"),
        (*_LATENT, "epsilon"),
    ),
    "PagedLatentAttention": Taken(("q", "cache", *_PAGING), (*_LATENT, "scale")),
    "PagedAttention": Taken(
        ("q", "key_cache", "value_cache", *_PAGING, "sinks", "bias"),
        (*_HEADS, "scale", "softcap", "window", "chunk", "bias_origin"),
        {"causal": 1, "distance_width": 0},
    ),
}


def refuse_unsupported(graph: ir.Graph) -> None:
    """Raises BuildError naming every operator that has no kernel, and what others have that theirs do not take."""
    found = {problem for node in graph for problem in _problems(node)}
    if found:
        raise BuildError(f"The cuda target has no kernel for {', '.join(sorted(found))}.", "Build it for --target cpu.")


def _problems(node: ir.Node) -> Iterator[str]:
    taken = TAKEN.get(node.op_type) if node.domain == DOMAIN else None
    if taken is None:
        yield node.op_type
        return
    for name, value in zip(OPERATORS[node.op_type].inputs, node.inputs, strict=False):
        if value is not None and name not in taken.inputs:
            yield f"{node.op_type} with {name}"
    yield from _unlike_groups(node)
    for name, attribute in node.attributes.items():
        if name in taken.only and attribute.as_int() != taken.only[name]:
            yield f"{node.op_type} with {name} {attribute.as_int()}"
        elif name not in taken.only and name not in taken.attributes:
            yield f"{node.op_type} with {name}"


def _unlike_groups(node: ir.Node) -> Iterator[str]:
    """A step of a product lies in one group."""
    for name in ("group_size", "inner_group_size"):
        size = node.attributes[name].as_int() if name in node.attributes else 0
        if size % LEAST_INNER:
            yield f"{node.op_type} with groups of {size} (it takes multiples of {LEAST_INNER})"
