"""The products of an engine in bfloat16, with what is in their launches: the residual stream, the gate of an MLP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from compare.gpu.case import Array, Call, Case, Peer, numbers, zeros
from compare.gpu.models import Model
from inflight.build.gpu_kernels.architectures import SMS
from inflight.build.gpu_kernels.kernels import gated_linear, linear
from inflight.build.gpu_kernels.kernels.activation import ACTIVATION_KINDS
from inflight.build.gpu_kernels.kernels.split_sums import FEW_ROWS, MANY_ROWS, workspace
from inflight.build.gpu_kernels.spec import Constant, KernelSpec, Variant

ROWS = (1, 16, 2048)
# Those whose results are added to the residual stream, which is float32.
_ADDED = ("dense", "proj")
(_LINEAR,), (_GATED,) = linear.SPECS, gated_linear.SPECS


def linear_cases(model: Model) -> Iterator[Case]:
    for name, (n, k) in model.products.items():
        # Few rows have logits.
        for rows in ROWS if name != "lm_head" else ROWS[:-1]:
            yield _gated(model, n // 2, k, rows) if name == "gate_up" else _linear(model, name, n, k, rows)


def _linear(model: Model, name: str, n: int, k: int, rows: int) -> Case:
    adds, y = name in _ADDED, "bf16" if name == "qkv" else "fp32"
    tile = FEW_ROWS if rows <= FEW_ROWS else MANY_ROWS
    variant = _variant(_LINEAR, {"y": y}, {"n": n, "k": k, "has_bias": False, "adds": adds, "block_rows": tile})
    results = (2 if y == "bf16" else 8 if adds else 4) * n * rows
    return _case(model, f"linear {name} {n}x{k}", _LINEAR, variant, n, k, rows, results, ("weight",))


def _gated(model: Model, n: int, k: int, rows: int) -> Case:
    tile = FEW_ROWS if rows <= FEW_ROWS else MANY_ROWS // 2
    own: dict[str, Constant] = {"n": n, "k": k, "has_bias": False, "block_rows": tile}
    variant = _variant(_GATED, {}, {**own, "activation": ACTIVATION_KINDS["silu"]})
    return _case(model, f"gated linear 2 x {n}x{k}", _GATED, variant, n, k, rows, 2 * n * rows, ("gate", "up"))


def _variant(spec: KernelSpec, types: Mapping[str, str], constants: Mapping[str, Constant]) -> Variant:
    """The first that the tests compile, which is in bfloat16, but for these."""
    first = spec.variants[0]
    return Variant({**first.types, **types}, {**first.constants, **constants})


def _case(
    model: Model,
    title: str,
    spec: KernelSpec,
    variant: Variant,
    n: int,
    k: int,
    rows: int,
    results: int,
    weights: tuple[str, ...],
) -> Case:
    """`results`: bytes that are written, and read to be added to."""
    width = len(weights) * n
    return Case(
        model.name,
        f"{title} bf16, {rows} rows",
        (Call(spec.function, variant, {"rows": rows}, {"rows": rows}),),
        partial(_arrays, spec, variant, n, k, rows, weights),
        moved=2 * k * (width + rows) + results,
        operations=2 * width * k * rows,
        peer=Peer("F.linear", "linear", {"n": width, "k": k, "rows": rows}),
    )


def _arrays(
    spec: KernelSpec, variant: Variant, n: int, k: int, rows: int, weights: tuple[str, ...]
) -> dict[str, Array]:
    needs = [workspace(variant, spec.tune(sm, variant), rows) for sm in SMS]
    sums, tiles = (max(sizes) for sizes in zip(*needs, strict=True))
    arrays = {name: numbers((n, k)) for name in weights}
    # No launch has a bias, and each matrix of a gate has sums of its own.
    arrays |= {name: zeros((1,), "bf16") for name in ("bias", "gate_bias", "up_bias")}
    arrays |= {
        "x": numbers((rows, k)),
        "residual": numbers((rows, n), "fp32"),
        "y": zeros((rows, n), variant.types["y"]),
    }
    return {**arrays, "partial": zeros((len(weights) * sums,)), "arrived": zeros((tiles,), "int32")}
