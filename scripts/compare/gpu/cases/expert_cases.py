"""A mixture of experts whole: choice, sorting, two products of each expert, and the sum of a row's experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from compare.gpu.case import Array, Call, Case, Peer, numbers, zeros
from compare.gpu.cases.quantized_cases import Scheme
from compare.gpu.models import Mixture
from inflight.build.gpu_kernels.kernels import expert_linear, expert_routing, quantized_expert_linear
from inflight.build.gpu_kernels.kernels.split_sums import FEW_ROWS
from inflight.build.gpu_kernels.spec import KernelSpec, Variant

ROWS = (1, 16, 512)
# None: weights of 16 bits.
SCHEMES = (None, Scheme("int8", "plain"), Scheme("int4", "plain", 128))
_ROUTE, _SORT = expert_routing.SPECS
_PRODUCT, _MIX, _ = expert_linear.SPECS
(_QUANTIZED,) = quantized_expert_linear.SPECS
_MATRICES = ("fc", "proj")
_OWN = ("weight", "weight_scale", "unit")


def expert_cases(mixture: Mixture) -> Iterator[Case]:
    for scheme in SCHEMES:
        for rows in ROWS:
            yield _case(mixture, scheme, rows)


def _case(mixture: Mixture, scheme: Scheme | None, rows: int) -> Case:
    hidden, size, top_k = mixture.hidden, mixture.size, mixture.top_k
    met = min(mixture.experts, rows * top_k)
    shapes = {"fc": (2 * size, hidden), "proj": (hidden, size)}
    of_expert = sum(2 * n * k if scheme is None else scheme.moved(n, k) for n, k in shapes.values())
    sizes = {"hidden": hidden, "size": size, "experts": mixture.experts, "top_k": top_k, "rows": rows}
    name = "bf16" if scheme is None else scheme.name
    return Case(
        mixture.name,
        f"{mixture.experts} experts {size}x{hidden}, {top_k} of a row, {name}, {rows} rows",
        (
            Call(
                _ROUTE.function, expert_routing.routing_variant(mixture.experts, top_k, "renormalized"), {"rows": rows}
            ),
            _sorting(mixture, scheme, rows),
            *(_product(mixture, scheme, rows, matrix) for matrix in _MATRICES),
            Call(
                _MIX.function,
                expert_linear.mix_variant(hidden, top_k, adds=True),
                {"rows": rows},
                arrays={"x": "outer"},
            ),
        ),
        partial(_arrays, mixture, scheme, rows),
        moved=met * of_expert + rows * hidden * (2 + 8),
        operations=2 * rows * top_k * sum(n * k for n, k in shapes.values()),
        peer=Peer(f"F.grouped_mm, bf16{' weights' if scheme else ''}", "experts", sizes),
    )


def _sorting(mixture: Mixture, scheme: Scheme | None, rows: int) -> Call:
    """It asks for the beginnings of the first product's weights, as that does for those of the second."""
    following = (2 * mixture.size, _stored(scheme, mixture.hidden))
    weight = "bf16" if scheme is None else "i8"
    variant = expert_routing.sorting_variant(mixture.experts, mixture.top_k, following=following, weight=weight)
    return Call(_SORT.function, variant, {}, {"rows": rows}, {"next_weight": "fc_weight"})


def _stored(scheme: Scheme | None, k: int) -> int:
    """Elements of a line of k weights."""
    return k if scheme is None else scheme.weight_bytes(k)


def _product(mixture: Mixture, scheme: Scheme | None, rows: int, matrix: str) -> Call:
    """fc is gated, and its results lie side by side in bfloat16; those of proj in float32."""
    is_fc = matrix == "fc"
    n, k = (mixture.size, mixture.hidden) if is_fc else (mixture.hidden, mixture.size)
    own: dict[str, Any] = {"few": rows <= FEW_ROWS, "activation": "silu" if is_fc else None, "by_pair": not is_fc}
    own["y"] = "bf16" if is_fc else "fp32"
    own["following"] = (mixture.hidden, _stored(scheme, mixture.size)) if is_fc else (0, 0)
    spec, variant = _variant(mixture, scheme, n, k, own)
    places = {"x": "x", "y": "inner"} if is_fc else {"x": "inner", "y": "outer"}
    places |= {name: f"{matrix}_{name}" for name in (_OWN if scheme else _OWN[:1])}
    places["next_weight"] = "proj_weight"
    return Call(spec.function, variant, {}, {"rows": rows}, places)


def _variant(
    mixture: Mixture, scheme: Scheme | None, n: int, k: int, own: Mapping[str, Any]
) -> tuple[KernelSpec, Variant]:
    experts, top_k = mixture.experts, mixture.top_k
    if scheme is None:
        return _PRODUCT, expert_linear.expert_variant(n, k, experts, top_k, **own)
    kinds = {"weights": scheme.weights, "rounded": scheme.rows, **scheme.kinds, **own}
    return _QUANTIZED, quantized_expert_linear.quantized_expert_variant(n, k, experts, top_k, **kinds)


def _arrays(mixture: Mixture, scheme: Scheme | None, rows: int) -> dict[str, Array]:
    experts, top_k, hidden, size = mixture.experts, mixture.top_k, mixture.hidden, mixture.size
    pairs = rows * top_k
    stacks: dict[str, Array] = {}
    for matrix, n, k in (("fc", 2 * size * experts, hidden), ("proj", hidden * experts, size)):
        held = {"weight": numbers((n, k))} if scheme is None else scheme.arrays(n, k)
        stacks |= {f"{matrix}_{name}" if name in _OWN else name: array for name, array in held.items()}
    return {
        **({"bias": zeros((1,), "bf16")} if scheme is None else {}),
        **stacks,
        "logits": _logits(rows, experts, top_k),
        "choice_bias": zeros((1,)),
        "chosen": zeros((rows, top_k), "int32"),
        **{name: zeros((rows, top_k)) for name in ("weights", "pair_weights")},
        "order": zeros((pairs,), "int32"),
        **{name: zeros((experts,), "int32") for name in ("begins", "ends")},
        "x": numbers((rows, hidden)),
        "x_scale": np.ones(rows, np.float32),
        "inner": zeros((pairs, size), "bf16"),
        "outer": zeros((pairs, hidden)),
        "residual": numbers((rows, hidden), "fp32"),
        "y": zeros((rows, hidden)),
    }


def _logits(rows: int, experts: int, top_k: int) -> Array:
    """Of which rows choose the experts in turn, so that it is known how many are met."""
    chosen = (np.arange(rows)[:, None] * top_k + np.arange(top_k)[None, :]) % experts
    logits = np.zeros((rows, experts), np.float32)
    np.put_along_axis(logits, chosen, np.float32(4), axis=1)
    return logits
