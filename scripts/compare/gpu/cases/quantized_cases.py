"""The products of an engine with weights of 8 and 4 bits, in each of their tiles of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from compare.gpu.case import Array, Call, Case, Peer, levels, numbers, zeros
from compare.gpu.models import Model
from inflight.build.gpu_kernels.architectures import SMS
from inflight.build.gpu_kernels.kernels import quantized_linear
from inflight.build.gpu_kernels.kernels.quantized_tiles import GROUP, OUTPUT
from inflight.build.gpu_kernels.kernels.split_sums import row_tiles, workspace
from inflight.build.gpu_kernels.spec import Variant

# One for each tile: of 16 rows, of 64 and of 128.
ROWS = (1, 64, 2048)
# A small matrix and a large one, whose results are not added to anything.
_PRODUCTS = ("qkv", "gate_up")
# What cuBLASLt takes of int8 at least.
_LEAST_INT8_ROWS = 17
(_LINEAR,) = quantized_linear.SPECS


@dataclass(frozen=True)
class Scheme:
    """Weights, the rows that meet them, and what scales weights: one number for each output, or for each group of
    inputs; `unit`: those of groups are bytes, multiples of a number of the output."""

    weights: str
    rows: str
    group_size: int = 0
    unit: bool = False

    @property
    def name(self) -> str:
        groups = f" in groups of {self.group_size}" if self.group_size else ""
        groups += " with multiples" if self.unit else ""
        return f"{'bf16' if self.rows == 'plain' else self.rows} x {self.weights}{groups}"

    @property
    def kinds(self) -> Mapping[str, Any]:
        """As variants of kernels take them."""
        shares = GROUP if self.group_size else OUTPUT
        scales = {"weight_scale": "i8" if self.unit else "fp32"}
        return {"shares": shares, "group_size": self.group_size, "has_unit": self.unit, **scales}

    def weight_bytes(self, k: int) -> int:
        """Of the levels of an output."""
        return -(-k // 2) if self.weights == "int4" else k

    def scales(self, k: int) -> int:
        """Of an output."""
        return -(-k // self.group_size) if self.group_size else 1

    def moved(self, n: int, k: int) -> int:
        """Bytes of a matrix (n, k) and of its scales."""
        of_scales = self.scales(k) + 4 if self.unit else 4 * self.scales(k)
        return n * (self.weight_bytes(k) + of_scales)

    def arrays(self, n: int, k: int) -> dict[str, Array]:
        """Those of a matrix, and what kernels take beside them and these have not."""
        shape = (n, self.scales(k))
        scales = np.abs(levels(shape)) % 15 + 1 if self.unit else np.abs(numbers(shape, "fp32"))
        return {
            "weight": levels((n, self.weight_bytes(k))),
            "weight_scale": scales,
            "unit": np.abs(numbers((n,), "fp32")),
            **{name: zeros((1,)) for name in ("zero", "codebook", "bias")},
        }

    def rows_of(self, rows: int, k: int) -> dict[str, Array]:
        """x and x_scale."""
        x = numbers((rows, k)) if self.rows == "plain" else levels((rows, k))
        return {"x": x, "x_scale": np.abs(numbers((rows,), "fp32"))}


SCHEMES = (
    Scheme("int8", "int8"),
    Scheme("int8", "plain"),
    Scheme("int4", "plain", 128),
    Scheme("int4", "int8", 16, unit=True),
)


def quantized_cases(model: Model) -> Iterator[Case]:
    for name in _PRODUCTS:
        for scheme in SCHEMES:
            for rows in ROWS:
                yield _case(model, name, scheme, rows)


def _case(model: Model, name: str, scheme: Scheme, rows: int) -> Case:
    n, k = model.products[name]
    tile = next(tile for most, tile in row_tiles("i8") if most is None or rows <= most)
    variant = quantized_linear.quantized_variant(n, k, scheme.weights, scheme.rows, tile=tile, **scheme.kinds)
    return Case(
        model.name,
        f"{name} {n}x{k} {scheme.name}, {rows} rows",
        (Call(_LINEAR.function, variant, {"rows": rows}, {"rows": rows}),),
        partial(_arrays, scheme, variant, n, k, rows),
        moved=scheme.moved(n, k) + rows * (k * (2 if scheme.rows == "plain" else 1) + 4 * n),
        operations=2 * n * k * rows,
        operands="bf16" if scheme.rows == "plain" else "int8",
        peer=_peer(scheme, {"n": n, "k": k, "rows": rows}),
    )


def _peer(scheme: Scheme, sizes: Mapping[str, int]) -> Peer:
    """torch's own where it has one: of int8 without the scales, of int4 with the same groups."""
    if scheme.weights == scheme.rows == "int8" and sizes["rows"] >= _LEAST_INT8_ROWS:
        return Peer("torch._int_mm", "int_mm", sizes)
    if scheme.weights == "int4" and scheme.rows == "plain":
        return Peer("torch._weight_int4pack_mm", "int4_mm", {**sizes, "group_size": scheme.group_size})
    return Peer("F.linear, bf16 weights", "linear", sizes)


def _arrays(scheme: Scheme, variant: Variant, n: int, k: int, rows: int) -> dict[str, Array]:
    needs = [workspace(variant, _LINEAR.tune(sm, variant), rows) for sm in SMS]
    sums, tiles = (max(sizes) for sizes in zip(*needs, strict=True))
    return {
        **scheme.arrays(n, k),
        **scheme.rows_of(rows, k),
        "residual": zeros((1,)),
        "y": zeros((rows, n)),
        "partial": zeros((sums,)),
        "arrived": zeros((tiles,), "int32"),
    }
