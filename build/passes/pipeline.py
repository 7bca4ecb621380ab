"""The passes in order: what runs for which target.

reference: none; ONNX Runtime runs the network as it is.
cpu: `cpu_phases`, in the order in which it lists them. A pass that meets a pattern it cannot fuse leaves it, and
`check` reports whatever is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import onnx_ir as ir

from inflight.build.graph.dtypes import onnx_dtype
from inflight.build.graph.operators import DOMAIN, DOMAIN_VERSION
from inflight.build.network.files import save_network
from inflight.build.passes.activation import fuse_activation
from inflight.build.passes.activation_types import set_activation_types
from inflight.build.passes.add_residual import add_residual
from inflight.build.passes.add_rows import fuse_add_rows
from inflight.build.passes.check import check_fused
from inflight.build.passes.clip_rows import fuse_clip_rows
from inflight.build.passes.dead_code import remove_dead_code
from inflight.build.passes.embedding import fuse_embedding
from inflight.build.passes.experts import fuse_experts
from inflight.build.passes.gate import fuse_gate
from inflight.build.passes.gated_linear import fuse_gated_linear
from inflight.build.passes.gather_logit_rows import gather_logit_rows
from inflight.build.passes.latent_attention import fuse_latent_attention
from inflight.build.passes.layer_norm import fuse_layer_norm
from inflight.build.passes.linear import fuse_linear
from inflight.build.passes.norm_quantize import fuse_norm_quantize
from inflight.build.passes.pack_tokens import LOGIT_ROWS, TOKENS, pack_tokens
from inflight.build.passes.paged_attention import fuse_paged_attention
from inflight.build.passes.plan_memory import plan_memory
from inflight.build.passes.qkv_norm import fuse_qkv_norm
from inflight.build.passes.quantize_rows import fuse_quantize_rows
from inflight.build.passes.quantized_gated_linear import fuse_quantized_gated_linear
from inflight.build.passes.quantized_linear import fuse_quantized_linear
from inflight.build.passes.rms_norm import fuse_rms_norm
from inflight.build.passes.rope_cache_write import fuse_rope_cache_write
from inflight.build.passes.round_rows import round_rows
from inflight.build.passes.scale import fuse_scale
from inflight.build.passes.soft_cap import fuse_soft_cap
from inflight.build.passes.xielu import fuse_xielu
from inflight.engine_format.manifest import Dtype, Limits

Pass = Callable[[ir.Graph], None]
CacheFactors = Sequence[tuple[float, float]]


def cpu_phases(
    limits: Limits, tokens_per_block: int, kv_dtype: Dtype, factors: CacheFactors = ()
) -> list[tuple[str, Pass]]:
    """(name, pass) in order. Passes before `pack_tokens` see [batch, step], those after it T rows."""
    kv_type = onnx_dtype(kv_dtype)
    return [
        ("linear", fuse_linear),
        ("quantize_rows", fuse_quantize_rows),
        ("quantized_linear", fuse_quantized_linear),
        ("experts", fuse_experts),
        ("embedding", fuse_embedding),
        ("rms_norm", fuse_rms_norm),
        ("layer_norm", fuse_layer_norm),
        ("gated_linear", fuse_gated_linear),
        ("quantized_gated_linear", fuse_quantized_gated_linear),
        ("gate", fuse_gate),
        ("activation", fuse_activation),
        ("xielu", fuse_xielu),
        ("clip_rows", fuse_clip_rows),
        ("qkv_norm", fuse_qkv_norm),
        ("rope_cache_write", fuse_rope_cache_write),
        ("paged_attention", fuse_paged_attention),
        ("latent_attention", fuse_latent_attention),
        ("add_residual", add_residual),
        ("soft_cap", fuse_soft_cap),
        ("scale", fuse_scale),
        ("add_rows", fuse_add_rows),
        ("norm_quantize", fuse_norm_quantize),
        ("pack_tokens", partial(pack_tokens, tokens_per_block=tokens_per_block, kv_dtype=kv_type, factors=factors)),
        ("gather_logit_rows", gather_logit_rows),
        ("round_rows", round_rows),
        ("activation_types", set_activation_types),
        ("dead_code", remove_dead_code),
        ("check", check_fused),
        ("plan_memory", partial(plan_memory, sizes={TOKENS: limits.max_num_tokens, LOGIT_ROWS: limits.max_logit_rows})),
    ]


def lower_for_cpu(
    model: ir.Model,
    limits: Limits,
    *,
    tokens_per_block: int,
    kv_dtype: Dtype,
    factors: CacheFactors = (),
    dump_dir: Path | None = None,
) -> ir.Model:
    """The fused, token-packed graph of docs/formats/operators.md; `model` is left as it was. `factors`: those of keys
    and of values of each layer, in a cache of 8-bit floats; none: 1.

    With `dump_dir`, the graph after each phase is written there as {number}_{phase}.onnx. Raises BuildError naming
    every operator that the CPU target cannot take.
    """
    lowered = model.clone()
    lowered.graph.opset_imports[DOMAIN] = DOMAIN_VERSION
    for number, (name, run) in enumerate(cpu_phases(limits, tokens_per_block, kv_dtype, factors), start=1):
        run(lowered.graph)
        if dump_dir is not None:
            dump_dir.mkdir(parents=True, exist_ok=True)
            save_network(lowered, dump_dir, f"{number:02}_{name}")
    lowered.functions.clear()
    return lowered
