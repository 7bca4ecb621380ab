"""The fused graph (docs/formats/operators.md) to the launches of a step, and the kernels that they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from inflight.build.gpu_kernels.spec import KernelSpec, Variant
from inflight.build.graph.values import name_of
from inflight.build.passes.plan_memory import OFFSET, WORKSPACE_BYTES
from inflight.build.targets.cuda.launch_plan import KernelList, PlannedLaunch
from inflight.build.targets.cuda.operators import (
    attention,
    experts,
    latent,
    products,
    quantized,
    quantized_experts,
    rows,
)
from inflight.build.targets.cuda.places import Places, width_of
from inflight.build.targets.cuda.sampling import list_logits, list_sampling, take_sampled_tokens
from inflight.engine_format.cuda_facts import LaunchList
from inflight.engine_format.manifest import Limits

_ROWS: Mapping[str, Callable[[ir.Node, Places], PlannedLaunch]] = {
    "EmbeddingLookup": rows.gather,
    "GatherRows": rows.gather,
    "RMSNorm": rows.normalize,
    "LayerNorm": rows.normalize_layer,
    "QkvNorm": rows.normalize_heads,
    **dict.fromkeys(("Activation", "Xielu", "RoundRows", "Scale", "SoftCap", "ClipRows"), rows.function),
    **dict.fromkeys(("AddRows", "Gate", "GateWholeRows"), rows.function),
    "QuantizeRows": quantized.quantize_rows,
    "RMSNormQuantize": quantized.normalize,
    "HeadLinear": latent.head_linear,
}
_PRODUCTS: Mapping[str, Callable[[ir.Node, Places, Sequence[int]], PlannedLaunch]] = {
    "Linear": products.linear,
    "GatedLinear": products.gated_linear,
    "QuantizedLinear": quantized.linear,
}
_MIXTURES: Mapping[str, Callable[[ir.Node, Places, Limits], list[PlannedLaunch]]] = {
    "Experts": experts.mixture,
    "QuantizedExperts": quantized_experts.mixture,
}
_WRITES: Mapping[str, Callable[[ir.Node, Places, int], PlannedLaunch]] = {
    "RopeCacheWrite": attention.rotate_and_write,
    "LatentCacheWrite": latent.write,
}
_ATTENTION: Mapping[str, Callable[[ir.Node, Places, int, Limits], list[PlannedLaunch]]] = {
    "PagedAttention": attention.attend,
    "PagedLatentAttention": latent.attend,
}


@dataclass(frozen=True)
class EmittedStep:
    """The launches, and the kernels by the places that they name."""

    launches: LaunchList
    kernels: Sequence[tuple[KernelSpec, Variant]]


def emit(
    graph: ir.Graph, places: Places, limits: Limits, tokens_per_block: int, generations: Sequence[int]
) -> EmittedStep:
    """`graph` is lowered, its values carry their offsets, and `refuse_unsupported` has passed it."""
    kernels = KernelList()
    logits = graph.outputs[0]
    launches = [take_sampled_tokens(kernels)]
    for node in graph:
        name, planned = name_of(node.outputs[0]), _planned(node, places, limits, tokens_per_block, generations)
        last = list_logits(kernels, name, planned.pop()) if node.outputs[0] is logits else []
        launches += [*(kernels.launch(name, each) for each in planned), *last]
    listed = LaunchList(
        launches=tuple(launches),
        arena_bytes=int(graph.metadata_props[WORKSPACE_BYTES]),
        scratch_bytes=places.scratch_bytes,
        counter_bytes=places.counter_bytes,
        logits=int(logits.metadata_props[OFFSET]),
        generated_rows=attention.generated_rows(limits),
        split_tokens=attention.SPLIT_TOKENS,
        sampling=list_sampling(kernels, limits, width_of(logits), int(logits.metadata_props[OFFSET])),
    )
    return EmittedStep(listed, kernels.kernels)


def _planned(
    node: ir.Node, places: Places, limits: Limits, tokens_per_block: int, generations: Sequence[int]
) -> list[PlannedLaunch]:
    if node.op_type in _PRODUCTS:
        return [_PRODUCTS[node.op_type](node, places, generations)]
    if node.op_type == "QuantizedGatedLinear":
        return quantized.gated_linear(node, places, generations)
    if node.op_type in _MIXTURES:
        return _MIXTURES[node.op_type](node, places, limits)
    if node.op_type in _WRITES:
        return [_WRITES[node.op_type](node, places, tokens_per_block)]
    if node.op_type in _ATTENTION:
        return _ATTENTION[node.op_type](node, places, tokens_per_block, limits)
    return [_ROWS[node.op_type](node, places)]
