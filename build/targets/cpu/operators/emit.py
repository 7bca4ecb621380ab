"""Which function makes the call of which fused operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from inflight.build.targets.cpu.operators import attention, experts, latent, quantized, rows
from inflight.build.targets.cpu.operators.calls import KernelCall, Places

EMITTERS: Mapping[str, Callable[[ir.Node, Places], KernelCall]] = {
    "EmbeddingLookup": rows.embedding_lookup,
    "RMSNorm": rows.rms_norm,
    "QkvNorm": attention.qkv_norm,
    "ClipRows": rows.clip_rows,
    "RoundRows": rows.round_rows,
    "LayerNorm": rows.layer_norm,
    "Linear": rows.linear,
    "GatedLinear": rows.gated_linear,
    "Activation": rows.activate,
    "Xielu": rows.xielu,
    "Scale": rows.scale,
    "SoftCap": rows.soft_cap,
    "AddRows": rows.add_rows,
    "RopeCacheWrite": attention.rope_cache_write,
    "PagedAttention": attention.paged_attention,
    "HeadLinear": latent.head_linear,
    "LatentCacheWrite": latent.cache_write,
    "PagedLatentAttention": latent.attention,
    "GatherRows": rows.gather_rows,
    "QuantizeRows": quantized.quantize_rows,
    "RMSNormQuantize": quantized.rms_norm_quantize,
    "QuantizedLinear": quantized.quantized_linear,
    "QuantizedGatedLinear": quantized.quantized_gated_linear,
    "Gate": rows.gate,
    "Experts": experts.experts,
    "QuantizedExperts": experts.quantized_experts,
    "GateWholeRows": quantized.gate_whole_rows,
}


def emit_call(node: ir.Node, places: Places) -> KernelCall:
    """The kernel call of one node; its operator must be in EMITTERS."""
    return EMITTERS[node.op_type](node, places)
