"""The same work by torch's own kernels, on the same GPU; `torch` is given, for it may not be there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Step = Callable[[], Any]


def add_rms_norm(torch: Any, *, rows: int, width: int) -> Step:
    x = torch.randn(rows, width, device="cuda")
    delta = torch.randn(rows, width, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(width, device="cuda", dtype=torch.bfloat16)

    @torch.compile(dynamic=False)  # type: ignore[untyped-decorator]
    def step() -> Any:
        total = x + delta
        return total, torch.nn.functional.rms_norm(total, (width,), weight.float(), 1e-5).bfloat16()

    return step  # type: ignore[no-any-return]


def swiglu(torch: Any, *, rows: int, width: int) -> Step:
    gate_up = torch.randn(rows, 2 * width, device="cuda", dtype=torch.bfloat16)

    @torch.compile(dynamic=False)  # type: ignore[untyped-decorator]
    def step() -> Any:
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up

    return step  # type: ignore[no-any-return]


def linear(torch: Any, *, n: int, k: int, rows: int) -> Step:
    """bfloat16 throughout."""
    x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
    return lambda: torch.nn.functional.linear(x, weight)


def int_mm(torch: Any, *, n: int, k: int, rows: int) -> Step:
    """int8 to int32, without the scales."""
    x, weight = (torch.randint(-120, 121, (size, k), device="cuda", dtype=torch.int8) for size in (rows, n))
    return lambda: torch._int_mm(x, weight.t())


def int4_mm(torch: Any, *, n: int, k: int, rows: int, group_size: int) -> Step:
    """bfloat16 rows and results, a scale and a zero point for each group of inputs: tinygemm's."""
    x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
    levels = torch.randint(0, 256, (n, k // 2), device="cuda", dtype=torch.uint8)
    weight = torch._convert_weight_to_int4pack(levels, 8)
    scales = torch.randn(k // group_size, n, 2, device="cuda", dtype=torch.bfloat16)
    return lambda: torch._weight_int4pack_mm(x, weight, group_size, scales)


def experts(torch: Any, *, hidden: int, size: int, experts: int, top_k: int, rows: int) -> Step:
    """A mixture as transformers computes it with grouped_mm, in bfloat16; rows choose the experts in turn."""
    options = {"device": "cuda", "dtype": torch.bfloat16}
    x, residual = torch.randn(rows, hidden, **options), torch.randn(rows, hidden, device="cuda")
    fc, proj = torch.randn(experts, 2 * size, hidden, **options), torch.randn(experts, hidden, size, **options)
    logits = torch.zeros(rows, experts, device="cuda")
    turn = torch.arange(rows * top_k, device="cuda").view(rows, top_k) % experts
    logits.scatter_(1, turn, 4.0)
    grouped = torch.nn.functional.grouped_mm

    def step() -> Any:
        weights, chosen = torch.topk(logits.softmax(dim=-1), top_k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        pairs, order = chosen.flatten().sort(stable=True)
        ends = torch.searchsorted(pairs, torch.arange(experts, device="cuda"), right=True).to(torch.int32)
        up, gate = grouped(x[order // top_k], fc.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        outer = grouped(torch.nn.functional.silu(gate) * up, proj.transpose(1, 2), offs=ends)
        return residual.index_add(0, order // top_k, outer.float() * weights.flatten()[order][:, None])

    return step


def greedy_projection(torch: Any, *, n: int, k: int, rows: int) -> Step:
    """bfloat16 throughout."""
    x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
    return lambda: torch.nn.functional.linear(x, weight).argmax(dim=-1)


def scaled_mm(torch: Any, *, n: int, k: int, rows: int) -> Step:
    """FP8 with a scale for each row and each output to bfloat16. use_fast_accum is off, as it is by default: every 128
    inputs a sum is promoted to float32."""
    x, weight = (torch.randn(size, k, device="cuda").to(torch.float8_e4m3fn) for size in (rows, n))
    scales = {"scale_a": torch.rand(rows, 1, device="cuda"), "scale_b": torch.rand(1, n, device="cuda")}
    return lambda: torch._scaled_mm(x, weight.t(), **scales, out_dtype=torch.bfloat16)


def attention(
    torch: Any, *, sequences: int, tokens: int, context: int, num_heads: int, num_kv_heads: int, head_size: int
) -> Step:
    """scaled_dot_product_attention over caches that are not paged: all sequences have the same context."""
    options = {"device": "cuda", "dtype": torch.bfloat16}
    q = torch.randn(sequences, num_heads, tokens, head_size, **options)
    keys = torch.randn(sequences, num_kv_heads, context, head_size, **options)
    values = torch.randn(sequences, num_kv_heads, context, head_size, **options)
    causal = tokens > 1
    attend = torch.nn.functional.scaled_dot_product_attention
    return lambda: attend(q, keys, values, is_causal=causal, enable_gqa=num_heads != num_kv_heads)


def greedy(torch: Any, *, rows: int, vocab: int) -> Step:
    logits = torch.randn(rows, vocab, device="cuda")
    return lambda: logits.argmax(dim=-1)


def top_k_top_p(torch: Any, *, rows: int, vocab: int, top_k: int, top_p: float, temperature: float) -> Step:
    """What transformers' warpers do, in their order: temperature, top_k, top_p by a full sort, one draw."""
    logits = torch.randn(rows, vocab, device="cuda")

    def step() -> Any:
        scores = logits / temperature
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -float("inf"))
        ascending, order = scores.sort(descending=False)
        dropped = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        scores = scores.masked_fill(dropped.scatter(1, order, dropped), -float("inf"))
        return torch.multinomial(scores.softmax(dim=-1), 1)

    return step
