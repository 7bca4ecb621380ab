"""Mixtures of experts whose weights are 8-bit floats, against NumPy; the same bits in any company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.graph.dtypes import onnx_dtype
from inflight.build.graph.expert_scratch import ExpertRows, scratch_row_bytes
from inflight.build.graph.values import new_value
from inflight.build.targets.cpu.packing.pack import pack_weights
from inflight.build.targets.cpu.packing.weight_layout import WeightLayout
from inflight.errors import BuildError
from tests.kernel.cpu.harness import Array, Kernel, compile_kernels, every_level, levels, operator, rows
from tests.kernel.cpu.quantized import aligned, row_scales
from tests.kernel.cpu.test_experts import many_times, random_logits
from tests.kernel.cpu.test_quantized_experts import Mixture, random_stack
from tests.oracles.fused_quantized import quantize_rows

pytestmark = pytest.mark.kernel

_GUARD = 0x5A
# What differs between them, the bytes of E4M3, test_float8.py has on every level.
LEVELS = [
    each if each.values[0] == levels()[0] else pytest.param(*each.values, id=each.id, marks=pytest.mark.slow)
    for each in every_level()
]


class Float8Mixture(Mixture):
    """Rows are E4M3 or bfloat16, by the attribute; either lies in memory as bfloat16."""

    @property
    def rows(self) -> ir.DataType:
        return onnx_dtype(self.attributes["rows"])

    @property
    def scratch_bytes(self) -> int:
        kind = ExpertRows(self.rows, self.rows, quantized=True)
        return scratch_row_bytes(self.experts, self.attributes["top_k"], *self.sizes, kind)

    def graph(self) -> ir.Graph:
        fc, proj, (hidden, _) = self.fc, self.proj, self.sizes
        inputs = [rows("x", hidden, self.rows), row_scales("x_scale"), fc.weight, fc.scale, proj.weight, proj.scale]
        inputs += [rows("logits", self.experts), rows("residual", hidden), *self.biases]
        outputs = [rows("y", hidden), new_value("scratch", ir.DataType.UINT8, ("T", self.scratch_bytes))]
        return operator("QuantizedExperts", inputs, outputs, self.attributes)

    def mixed(
        self, kernel: Kernel, x: Array, x_scale: Array, logits: Array, residual: Array | None = None, threads: int = 1
    ) -> Array:
        """Its scratch memory is as large as it says, and no byte behind it is written."""
        y = np.full((len(x), self.sizes[0]), np.nan, np.float32) if residual is None else residual.copy()
        memory = aligned(np.full(len(x) * self.scratch_bytes + 256, _GUARD, np.uint8))
        given = aligned(x.astype(ml_dtypes.bfloat16)), np.ascontiguousarray(x_scale)
        packed = (*kernel.packed, None, None)[:4]
        added = None if residual is None else y
        kernel.run(len(x), *given, *packed, np.ascontiguousarray(logits), None, added, y, memory, threads=threads)
        assert (memory[len(x) * self.scratch_bytes :] == _GUARD).all()
        return y


def random_float8_mixture(rng: np.random.Generator, kind: str) -> Float8Mixture:
    count, hidden, size = int(rng.integers(2, 12)), int(rng.integers(1, 200)), int(rng.integers(1, 150))
    fc, proj = (random_stack(rng, "float8", *each) for each in ((count * 2 * size, hidden), (count * hidden, size)))
    attributes = {
        "top_k": int(rng.integers(1, count + 1)),
        "routing": str(rng.choice(["softmax", "renormalized", "sigmoid_inputs"])),
        "epsilon": 0.0,
        "scale": 1.0,
        "groups": 1,
        "top_groups": 1,
        "activation": str(rng.choice(["silu", "gelu_tanh", "clamped_swiglu"])),
        "group_size": fc.group,
        "inner_group_size": proj.group,
        "rows": kind,
        "experts": count,
    }
    widths = (2 * size, hidden)
    biases = [rng.standard_normal((count, width)).astype(np.float32) for width in widths]
    return Float8Mixture(fc, proj, attributes, (biases[0], biases[1]) if rng.random() < 0.5 else (None, None), 8)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: str(level.name))
def test_experts_of_8_bit_floats_are_as_defined_and_a_row_does_not_see_its_company(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    """One kind of rows, drawn anew: each takes the compiler seconds."""
    kinds = [str(rng.choice(["bfloat16", "float8_e4m3fn"]))]
    mixtures = [random_float8_mixture(rng, kind) for kind in kinds]
    kernels = compile_kernels([mixture.graph() for mixture in mixtures], level, tmp_path)
    for kernel, mixture, kind in zip(kernels, mixtures, kinds, strict=True):
        hidden, _ = mixture.sizes
        # One row, few, and so many that threads take blocks of an expert's rows.
        for number in (1, int(rng.integers(2, 9)), int(rng.integers(60, 200))):
            values = rng.standard_normal((number, hidden), np.float32)
            x, x_scale = quantize_rows(values, type="bfloat16" if kind == "bfloat16" else "float8_e4m3fn")
            logits = random_logits(rng, number, mixture.experts)
            y = mixture.mixed(kernel, x, x_scale, logits)
            expected = mixture.expected(x, x_scale, logits)
            # Rows between the two products are now and then rounded to the other neighbour than the reference's.
            slack = (2**-9 if kind == "bfloat16" else 2**-5) * max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(y, expected, rtol=0, atol=slack, err_msg=str(mixture.attributes))
            for threads in (2, 3):
                np.testing.assert_array_equal(mixture.mixed(kernel, x, x_scale, logits, threads=threads), y)
            for start, stop in (sorted(rng.integers(0, number + 1, 2)), (0, 1), (number - 1, number)):
                part = slice(start, stop)
                alone = mixture.mixed(kernel, x[part], x_scale[part], logits[part], threads=2)
                np.testing.assert_array_equal(alone, y[part])
            again = many_times(rng, number)
            residual = rng.standard_normal((len(again), hidden), np.float32)
            for given in (again, np.arange(number)):
                added = residual[: len(given)]
                sums = mixture.mixed(kernel, x[given], x_scale[given], logits[given], added, threads=2)
                np.testing.assert_array_equal(sums, y[given] + added)


def test_experts_that_are_no_numbers_are_refused_by_name(rng: np.random.Generator, tmp_path: Path) -> None:
    mixture = random_float8_mixture(rng, "bfloat16")
    stack = (mixture.fc, mixture.proj)[rng.integers(2)]
    stack.weight.view(np.uint8)[rng.integers(len(stack.weight)), rng.integers(stack.weight.shape[1])] = 0xFF
    with pytest.raises(BuildError, match=r"weight\.\d+: A weight is NaN"):
        pack_weights(WeightLayout(mixture.graph()), tmp_path / "weights", lambda amount, label=None: None)
