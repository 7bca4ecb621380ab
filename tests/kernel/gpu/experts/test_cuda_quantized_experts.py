"""Mixtures of experts with quantized weights of the cuda target, interpreted, against the fused operator."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from tests.kernel.cpu.test_experts import random_logits
from tests.kernel.cpu.test_quantized_experts import Mixture, Stack, random_stack
from tests.kernel.gpu.support.cuda_launch import interpret
from tests.oracles.fused_quantized import quantize_rows

from inflight.build.gpu_kernels.kernels import expert_linear, expert_routing  # isort: skip
from inflight.build.gpu_kernels.kernels import quantized_expert_linear as kernel  # isort: skip
from inflight.build.gpu_kernels.kernels.quantized_tiles import GROUP, OUTPUT  # isort: skip
from inflight.build.gpu_kernels.kernels.quantize_rows import quantize_variant  # isort: skip

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]
NOTHING = np.full(16, np.nan, np.float32)
# Of stacks, and to what rows are rounded.
KINDS = [
    *(("int8", "int8"), ("int8", None), ("multiples", "int8"), ("multiples", None)),
    *(("groups", None), ("groups", "int8"), ("groups", "float8"), ("codes", None)),
    *(("float8", None), ("float8", "float8")),
]
_LEVELS: dict[str, Any] = {"int8": "int8", "float8": "float8_e4m3fn"}


def small_mixture(rng: np.random.Generator, kind: str, rounded: str | None) -> Mixture:
    """The interpreter takes seconds for many experts."""
    count, hidden, size = (int(number) for number in (rng.integers(2, 5), rng.integers(1, 70), rng.integers(1, 70)))
    fc, proj = random_stack(rng, kind, count * 2 * size, hidden), random_stack(rng, kind, count * hidden, size)
    attributes = {
        "top_k": int(rng.integers(1, count + 1)),
        "routing": str(rng.choice(["softmax", "sigmoid_inputs"])),
        "epsilon": 0.0,
        "scale": 1.0,
        "groups": 1,
        "top_groups": 1,
        "activation": str(rng.choice(["silu", "clamped_swiglu"])),
        "group_size": fc.group,
        "inner_group_size": proj.group,
        "rows": _LEVELS[rounded] if rounded else "float32",
        "experts": count,
    }
    biases = [rng.standard_normal((count, width)).astype(np.float32) for width in (2 * size, hidden)]
    given = (biases[0], biases[1]) if rng.random() < 0.5 else (None, None)
    return Mixture(fc, proj, attributes, given, 8)


class Launched:
    """What all launches of `QuantizedExperts` make of rows, float32 or levels with their scales; float8 meets weights
    that it holds as such."""

    def __init__(self, mixture: Mixture, x: Array, x_scale: Array, logits: Array) -> None:
        self._mixture, self._top_k = mixture, mixture.attributes["top_k"]
        self._rounded = {"float32": None, "int8": "int8"}.get(x.dtype.name, "float8")
        self._rows, count = logits.shape
        (hidden, size), pairs = mixture.sizes, self._rows * self._top_k
        self._shared: dict[str, Any] = {"logits": np.ascontiguousarray(logits), "choice_bias": NOTHING}
        self._shared |= {name: np.full(pairs, -1, np.int32) for name in ("chosen", "order")}
        self._shared |= {name: np.full(count, -1, np.int32) for name in ("begins", "ends")}
        self._shared |= {"weights": np.full(pairs, np.nan, np.float32), "rows": self._rows}
        self._shared["next_weight"] = NOTHING.view(np.int8)
        routing = mixture.attributes["routing"]
        self._run("route_experts", expert_routing.routing_variant(count, self._top_k, routing), {})
        self._run("sort_pairs", expert_routing.sorting_variant(count, self._top_k), {})
        self._inner = np.full((pairs, size), np.nan, np.float32)
        self._outer = np.full((pairs, hidden), np.nan, np.float32)
        self._given = x if self._rounded is None else x.view(np.int8), x_scale

    def mixed(self, *, few: bool) -> Array:
        mixture, (hidden, size) = self._mixture, self._mixture.sizes
        x, x_scale = self._given
        activation = mixture.attributes["activation"]
        self._product(mixture.fc, size, hidden, (x, x_scale, mixture.biases[0], self._inner), activation, few=few)
        inner, scales = self._inner, NOTHING
        if self._rounded is not None:
            inner, scales = np.zeros(self._inner.shape, np.int8), np.full(len(self._inner), np.nan, np.float32)
            unused = dict.fromkeys(("factors", "stored", "low", "high"), NOTHING)
            arrays = {"x": self._inner, "y": inner, "y_scale": scales, "order": NOTHING.view(np.int32), **unused}
            self._run("quantize_rows", quantize_variant(size, self._rounded, times=self._top_k), arrays)
            levels, expected = quantize_rows(self._inner, type=_LEVELS[self._rounded])
            assert np.array_equal(inner, levels.view(np.int8)) and np.array_equal(scales, expected)
        self._product(mixture.proj, hidden, size, (inner, scales, mixture.biases[1], self._outer), few=few)
        y = np.full((self._rows, hidden), np.nan, np.float32)
        weighs = mixture.attributes["routing"] != "sigmoid_inputs"
        variant = expert_linear.mix_variant(hidden, self._top_k, adds=False, weighs=weighs)
        self._run("mix_experts", variant, {"x": self._outer, "residual": y, "y": y})
        return y

    def _product(
        self,
        stack: Stack,
        n: int,
        k: int,
        arrays: tuple[Array, Array, Array | None, Array],
        activation: str | None = None,
        *,
        few: bool,
    ) -> None:
        x, x_scale, bias, y = arrays
        kinds: dict[str, Any] = {"shares": GROUP if stack.group else OUTPUT, "group_size": stack.group}
        kinds |= {"has_unit": stack.unit is not None, "zero": None if stack.zero is None else "fp32"}
        kinds |= {"weight_scale": "i8" if stack.scale.dtype == np.int8 else "fp32"}
        weighs = activation is not None and self._mixture.attributes["routing"] == "sigmoid_inputs"
        variant = kernel.quantized_expert_variant(
            n,
            k,
            self._mixture.experts,
            self._top_k,
            "float8" if stack.weight.dtype == ml_dtypes.float8_e4m3fn else str(stack.weight.dtype),
            self._rounded or "plain",
            few=few,
            native_float8=True,
            bias=None if bias is None else "fp32",
            activation=activation,
            by_pair=activation is None,
            weighs_inputs=weighs,
            x="fp32",
            **kinds,
        )
        named = {"x": x, "x_scale": x_scale, "weight": _stored(stack.weight), "weight_scale": stack.scale, "y": y}
        beside = {"unit": stack.unit, "zero": stack.zero, "codebook": stack.codebook, "bias": bias}
        named |= {name: NOTHING if array is None else array for name, array in beside.items()}
        self._run("quantized_expert_linear", variant, {**named, "pair_weights": self._shared["weights"]})

    def _run(self, function: str, variant: Any, arrays: dict[str, Any]) -> None:
        interpret(function, variant, {**self._shared, **arrays}, {"rows": self._rows})


def _stored(weight: Array) -> Array:
    if weight.dtype in (np.int8, ml_dtypes.float8_e4m3fn):
        return weight.view(np.int8)
    halves = np.pad(weight.astype(np.int8).view(np.uint8) & 15, ((0, 0), (0, weight.shape[1] % 2)))
    return np.asarray(halves[:, 0::2] | halves[:, 1::2] << 4).view(np.int8)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_experts_of_levels_are_those_of_the_definition(rng: np.random.Generator, kind: tuple[str, str | None]) -> None:
    """Few rows and many have the same bits, and a row alone those that it has among others."""
    mixture, rows = small_mixture(rng, *kind), int(rng.integers(2, 7))
    x: Array = rng.standard_normal((rows, mixture.sizes[0])).astype(np.float32)
    x_scale, rounded = NOTHING, kind[1]
    if rounded is not None:
        x, x_scale = quantize_rows(x, type=_LEVELS[rounded])
    logits = random_logits(rng, rows, mixture.experts)
    launched = Launched(mixture, x, x_scale, logits)
    few, many = (launched.mixed(few=few) for few in (True, False))
    assert np.array_equal(few, many)
    # The reference rounds rows in front of the second product, to the last type that it knows, or to bfloat16's bits.
    wide = mixture._replace(attributes={**mixture.attributes, "rows": _LEVELS[rounded] if rounded else "int16"})
    expected = wide.expected(x, x_scale if rounded else np.ones(rows, np.float32), logits)
    # A number between two levels may go either way: a 127th of the greatest, or a sixteenth of itself.
    slack = {None: 2**-12, "int8": 2**-6, "float8": 2**-4}[rounded] * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(few, expected, rtol=0, atol=slack)
    row = int(rng.integers(rows))
    part = slice(row, row + 1)
    alone = Launched(mixture, x[part], x_scale[part] if rounded else x_scale, logits[part]).mixed(few=True)
    assert np.array_equal(alone[0], few[row])
