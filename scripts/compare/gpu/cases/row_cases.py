"""Norms and gates: bound by memory at any number of rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from compare.gpu.case import Array, Call, Case, Peer, numbers, zeros
from compare.gpu.models import Model
from inflight.build.gpu_kernels.kernels.rms_norm import norm_variant
from inflight.build.gpu_kernels.spec import Variant

ROWS = (1, 32, 4096)


def row_cases(model: Model) -> Iterator[Case]:
    for rows in ROWS:
        for result in ("bf16", "int8", "float8"):
            yield _norm(model, rows, result)
        for result in ("bf16", "int8"):
            yield _swiglu(model, rows, result)


def _norm(model: Model, rows: int, result: str) -> Case:
    """The residual stream in float32, what is added to it in bfloat16."""
    width = model.hidden
    variant = norm_variant(width, epsilon=1e-5, adds=True, delta="bf16", y=result)
    result_bytes = 2 if result == "bf16" else 1
    return Case(
        model.name,
        f"add + RMSNorm to {result}, {rows} rows",
        (Call("rms_norm", variant, {"rows": rows}),),
        partial(_norm_arrays, rows, width, result),
        moved=rows * width * (4 + 2 + 4 + result_bytes) + 2 * width,
        peer=Peer("torch.compile", "add_rms_norm", {"rows": rows, "width": width}) if result == "bf16" else None,
    )


def _norm_arrays(rows: int, width: int, result: str) -> dict[str, Array]:
    return {
        "x": numbers((rows, width), "fp32"),
        "delta": numbers((rows, width)),
        "weight": numbers((width,)),
        **{name: zeros((1,)) for name in ("stored", "low", "high")},
        "total": zeros((rows, width)),
        "y": zeros((rows, width), "bf16" if result == "bf16" else "int8"),
        "y_scale": zeros((rows,)),
    }


def _swiglu(model: Model, rows: int, result: str) -> Case:
    width = model.intermediate
    if result == "bf16":
        call = Call("swiglu", Variant({"gate_up": "bf16", "y": "bf16"}, {"width": width}), {"rows": rows})
    else:
        call = Call("swiglu_quantize", Variant({"gate_up": "bf16"}, {"width": width, "float8": False}), {"rows": rows})
    return Case(
        model.name,
        f"SwiGLU to {result}, {rows} rows",
        (call,),
        partial(_swiglu_arrays, rows, width, result),
        moved=rows * width * (4 + (2 if result == "bf16" else 1)),
        peer=Peer("torch.compile", "swiglu", {"rows": rows, "width": width}) if result == "bf16" else None,
    )


def _swiglu_arrays(rows: int, width: int, result: str) -> dict[str, Array]:
    return {
        "gate_up": numbers((rows, 2 * width)),
        "y": zeros((rows, width), "bf16" if result == "bf16" else "int8"),
        "y_scale": zeros((rows,)),
    }
