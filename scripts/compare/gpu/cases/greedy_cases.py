"""The vocabulary projection of greedy rows, which leaves a token in place of the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from compare.gpu.case import Array, Call, Case, Peer, numbers, zeros
from compare.gpu.cases.quantized_cases import Scheme
from compare.gpu.models import Model
from inflight.build.gpu_kernels.architectures import SMS
from inflight.build.gpu_kernels.kernels import greatest_logits, linear, quantized_linear
from inflight.build.gpu_kernels.kernels.split_sums import row_tiles, workspace
from inflight.build.gpu_kernels.spec import KernelSpec, Variant

ROWS = (1, 16, 64)
_SCHEME = Scheme("int8", "plain")
(_LINEAR,), (_QUANTIZED,), (_GREATEST,) = linear.SPECS, quantized_linear.SPECS, greatest_logits.SPECS


def greedy_cases(model: Model) -> Iterator[Case]:
    for rows in ROWS:
        yield _plain(model, rows)
        yield _quantized(model, rows)


def _plain(model: Model, rows: int) -> Case:
    n, k = model.products["lm_head"]
    variant = linear.choosing(linear.linear_variant(n, k, tile=_tile(rows)))
    arrays = partial(_plain_arrays, n, k, rows)
    return _case(model, "bf16", _LINEAR, variant, rows, arrays, 2 * n * k)


def _plain_arrays(n: int, k: int, rows: int) -> dict[str, Array]:
    return {"x": numbers((rows, k)), "weight": numbers((n, k)), "bias": zeros((1,), "bf16")}


def _quantized(model: Model, rows: int) -> Case:
    n, k = model.products["lm_head"]
    variant = quantized_linear.quantized_variant(n, k, _SCHEME.weights, _SCHEME.rows, tile=_tile(rows), **_SCHEME.kinds)
    arrays = partial(_quantized_arrays, n, k, rows)
    return _case(model, _SCHEME.name, _QUANTIZED, quantized_linear.choosing(variant), rows, arrays, _SCHEME.moved(n, k))


def _quantized_arrays(n: int, k: int, rows: int) -> dict[str, Array]:
    return {**_SCHEME.arrays(n, k), **_SCHEME.rows_of(rows, k)}


def _tile(rows: int) -> int:
    return next(tile for most, tile in row_tiles("bf16") if most is None or rows <= most)


def _case(
    model: Model,
    name: str,
    spec: KernelSpec,
    variant: Variant,
    rows: int,
    arrays: Callable[[], dict[str, Array]],
    weight_bytes: int,
) -> Case:
    n, k = model.products["lm_head"]
    sizes = {"rows": rows}
    return Case(
        model.name,
        f"greedy vocabulary projection {n}x{k} {name}, {rows} rows",
        (
            Call(spec.function, variant, sizes, sizes, {"y": "greatest"}),
            Call(_GREATEST.function, _GREATEST.variants[0], sizes, sizes),
        ),
        partial(_with_places, spec, variant, rows, arrays),
        moved=weight_bytes + rows * (2 * k + 4),
        operations=2 * n * k * rows,
        peer=Peer("F.linear + argmax, bf16", "greedy_projection", {"n": n, "k": k, "rows": rows}),
    )


def _with_places(
    spec: KernelSpec, variant: Variant, rows: int, arrays: Callable[[], dict[str, Array]]
) -> dict[str, Array]:
    needs = [workspace(variant, spec.tune(sm, variant), rows) for sm in SMS]
    sums, tiles = (max(sizes) for sizes in zip(*needs, strict=True))
    return {
        **arrays(),
        "residual": zeros((1,)),
        "greatest": zeros((rows,), "int64"),
        "tokens": zeros((rows,), "int32"),
        "partial": zeros((sums,)),
        "arrived": zeros((tiles,), "int32"),
    }
