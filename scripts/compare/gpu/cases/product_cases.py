"""Products: of few rows (weights widened in registers, bound by memory), of many (cuBLASLt, bound by arithmetic)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from compare.gpu.case import Array, Call, Case, Peer, ProductCase, levels, numbers, zeros
from compare.gpu.models import Model
from inflight.build.gpu_kernels.architectures import SMS
from inflight.build.gpu_kernels.kernels.weight_only import product_variant, tune, workspace
from inflight.build.gpu_kernels.spec import Variant

FEW_ROWS = (1, 16)
MANY_ROWS = 4096
GROUP_SIZE = 128


def few_row_cases(model: Model) -> Iterator[Case]:
    for name, (n, k) in model.products.items():
        for weights in ("int8", "float8", "int4"):
            for rows in FEW_ROWS:
                yield _few_rows(model, name, n, k, weights, rows)


def many_row_cases(model: Model) -> Iterator[ProductCase]:
    for name, (n, k) in model.products.items():
        if name == "lm_head":
            continue
        for operands in ("bf16", "float8", "int8"):
            yield ProductCase(
                model.name,
                f"{name} {n}x{k} {operands}, {MANY_ROWS} rows",
                n,
                k,
                MANY_ROWS,
                operands,
                _linear("F.linear", n, k, MANY_ROWS) if operands == "bf16" else None,
            )


def _few_rows(model: Model, name: str, n: int, k: int, weights: str, rows: int) -> Case:
    group_size = GROUP_SIZE if weights == "int4" else 0
    variant = product_variant(n, k, weights, group_size=group_size)
    lines = -(-n // 2) if weights == "int4" else n
    scales = -(-k // GROUP_SIZE) * n if weights == "int4" else n
    return Case(
        model.name,
        f"{name} {n}x{k} {weights}, {rows} rows",
        (Call("weight_only", variant, {"rows": rows, "lines": lines}, {"rows": rows}),),
        partial(_few_row_arrays, variant, n, k, lines, scales, rows),
        moved=lines * k + 4 * scales + rows * (2 * k + 4 * n),
        operations=2 * n * k * rows,
        peer=_linear("F.linear, bf16 weights", n, k, rows),
    )


def _few_row_arrays(variant: Variant, n: int, k: int, lines: int, scales: int, rows: int) -> dict[str, Array]:
    sums, tiles = (
        max(sizes) for sizes in zip(*(workspace(variant, tune(sm, variant), rows) for sm in SMS), strict=True)
    )
    return {
        "x": numbers((rows, k)),
        "weight": levels((lines, k)),
        "weight_scale": numbers((scales,), "fp32"),
        "bias": zeros((n,)),
        "y": zeros((rows, n)),
        "partial": zeros((sums,)),
        "arrived": zeros((tiles,), "int32"),
    }


def _linear(name: str, n: int, k: int, rows: int) -> Peer:
    return Peer(name, "linear", {"n": n, "k": k, "rows": rows})
