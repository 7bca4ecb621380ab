"""Products of FP8 rows with FP8 weights, as engines have them: multiplied in FP8, in 16 bits, and by torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from compare.gpu.case import Array, Call, Case, Peer, levels, numbers, zeros
from compare.gpu.models import Model
from inflight.build.gpu_kernels.architectures import SMS, architecture_of
from inflight.build.gpu_kernels.kernels import quantized_linear
from inflight.build.gpu_kernels.kernels.quantized_tiles import OUTPUT
from inflight.build.gpu_kernels.kernels.split_sums import row_tiles, workspace
from inflight.build.gpu_kernels.spec import Variant

ROWS = (1, 16, 2048)
# A small matrix and a large one, whose results are not added to anything.
_PRODUCTS = ("qkv", "gate_up")
(_LINEAR,) = quantized_linear.SPECS


def float8_cases(model: Model, sm: int) -> Iterator[Case]:
    """Few rows are bound by memory, so that both ways are measured with many alone."""
    able = architecture_of(sm).float8_bits > 0
    for name in _PRODUCTS:
        for rows in ROWS:
            for native in ([True] if able else []) + ([False] if rows == ROWS[-1] or not able else []):
                yield _case(model, name, rows, native=native, has_peer=able)


def _case(model: Model, name: str, rows: int, *, native: bool, has_peer: bool) -> Case:
    n, k = model.products[name]
    tile = next(tile for most, tile in row_tiles("i8") if most is None or rows <= most)
    variant = quantized_linear.quantized_variant(
        n, k, "float8", "float8", tile=tile, shares=OUTPUT, native_float8=native
    )
    return Case(
        model.name,
        f"{name} {n}x{k} float8 x float8, {'native' if native else 'widened'}, {rows} rows",
        (Call(_LINEAR.function, variant, {"rows": rows}, {"rows": rows}),),
        partial(_arrays, variant, n, k, rows),
        moved=k * (n + rows) + 4 * (n + rows + n * rows),
        operations=2 * n * k * rows,
        operands="float8" if native else "bf16",
        peer=Peer("torch._scaled_mm", "scaled_mm", {"n": n, "k": k, "rows": rows}) if has_peer else None,
    )


def _arrays(variant: Variant, n: int, k: int, rows: int) -> dict[str, Array]:
    needs = [workspace(variant, _LINEAR.tune(sm, variant), rows) for sm in SMS]
    sums, tiles = (max(sizes) for sizes in zip(*needs, strict=True))
    unused = {name: zeros((1,)) for name in ("unit", "zero", "codebook", "bias", "residual")}
    return {
        **unused,
        "x": levels((rows, k)),
        "x_scale": numbers((rows,), "fp32"),
        "weight": levels((n, k)),
        "weight_scale": numbers((n,), "fp32"),
        "y": zeros((rows, n)),
        "partial": zeros((sums,)),
        "arrived": zeros((tiles,), "int32"),
    }
