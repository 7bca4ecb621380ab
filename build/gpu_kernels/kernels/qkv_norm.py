"""RMSNorm of a row's queries, and of its keys, over all their heads at once (OLMo 2)."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant

# Queries, keys and values.
_PARTS = 3


@triton.jit
def qkv_norm(
    qkv,
    q_norm,
    k_norm,
    y,
    q_width: tl.constexpr,
    k_width: tl.constexpr,
    epsilon: tl.constexpr,
    block: tl.constexpr,
):
    """Program (row, part): queries, keys and values of y [rows, q_width + 2 k_width], which may be the memory of qkv.

    x / sqrt(mean(x^2) + epsilon) * norm for queries and keys, each as a whole; values as they are. qkv and y float32;
    q_norm [q_width], k_norm [k_width] of any float type. `block` is a power of two of at least either width.
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    columns = tl.arange(0, block)
    width = tl.where(part == 0, q_width, k_width)
    inside = columns < width
    at = row * (q_width + 2 * k_width) + tl.where(part == 0, 0, q_width + (part - 1) * k_width) + columns
    value = tl.load(qkv + at, mask=inside, other=0.0)
    if part < 2:
        if part == 0:
            gain = tl.load(q_norm + columns, mask=inside, other=0.0).to(tl.float32)
        else:
            gain = tl.load(k_norm + columns, mask=inside, other=0.0).to(tl.float32)
        mean_square = tl.div_rn(tl.sum(value * value, axis=0), width.to(tl.float32))
        value = value * tl.div_rn(1.0, tl.sqrt_rn(mean_square + epsilon)) * gain
    tl.store(y + at, value, mask=inside)


def tune(sm: int, variant: Variant) -> Tuning:
    """8 to 32 elements a thread: a row is in registers between its sum and its result."""
    widest = max(int(variant.constants[name]) for name in ("q_width", "k_width"))
    block = triton.next_power_of_2(widest)
    return Tuning(num_warps=min(16, max(1, block // 512)), constants={"block": block})


def qkv_norm_variant(q_width: int, k_width: int, *, epsilon: float, norm: str = "bf16") -> Variant:
    """For queries and keys of so many elements; `norm` is the type of the norms' weights."""
    return Variant({"norm": norm}, {"q_width": q_width, "k_width": k_width, "epsilon": epsilon})


SPECS = (
    KernelSpec(
        module=__name__,
        function="qkv_norm",
        arguments=(
            Argument("qkv", "*fp32"),
            Argument("q_norm", "*{norm}"),
            Argument("k_norm", "*{norm}"),
            Argument("y", "*fp32"),
        ),
        grid=((Extent("rows"),), (Extent(_PARTS),)),
        tune=tune,
        variants=(
            qkv_norm_variant(4096, 4096, epsilon=1e-6),
            qkv_norm_variant(5120, 1024, epsilon=1e-6),
        ),
        decode_path=True,
    ),
)
