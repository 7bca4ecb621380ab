"""Mixtures of experts whose rows and weights are integers, against NumPy; the same bits in any company."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from inflight.build.graph.expert_scratch import ExpertRows, scratch_row_bytes
from inflight.build.graph.values import new_value
from inflight.convert.quantization.multiples import MOST_MULTIPLE
from tests.kernel.cpu.harness import Array, Kernel, compile_kernels, every_level, levels, operator, rows
from tests.kernel.cpu.quantized import (
    ROW_TYPES,
    aligned,
    integer_rows,
    random_levels,
    random_weight,
    random_weight8,
    row_scales,
    to_record,
)
from tests.kernel.cpu.test_experts import many_times, random_logits
from tests.oracles.fused_experts import quantized_experts

pytestmark = pytest.mark.kernel

_GUARD = 0x5A


class Stack(NamedTuple):
    """Levels [experts * out, in] with what is beside them; `scale` is what the kernel is given, times `unit`."""

    weight: Array
    scale: Array
    group: int
    zero: Array | None = None
    codebook: Array | None = None
    unit: Array | None = None

    @property
    def meant(self) -> Array:
        return self.scale if self.unit is None else self.scale * self.unit[:, None]


class Mixture(NamedTuple):
    fc: Stack
    proj: Stack
    attributes: dict[str, Any]
    biases: tuple[Array | None, Array | None]
    row_bits: int

    @property
    def experts(self) -> int:
        return int(self.attributes["experts"])

    @property
    def sizes(self) -> tuple[int, int]:
        """hidden, size"""
        return self.fc.weight.shape[1], self.proj.weight.shape[1]

    @property
    def scratch_bytes(self) -> int:
        kind = ExpertRows(ROW_TYPES[self.row_bits], ir.DataType[self.attributes["rows"].upper()], quantized=True)
        return scratch_row_bytes(self.experts, self.attributes["top_k"], *self.sizes, kind)

    def graph(self) -> ir.Graph:
        fc, proj, (hidden, _) = self.fc, self.proj, self.sizes
        inputs = [integer_rows("x", hidden, self.row_bits), row_scales("x_scale")]
        inputs += [fc.weight, fc.scale, proj.weight, proj.scale, rows("logits", self.experts), rows("residual", hidden)]
        inputs += [*self.biases, fc.zero, proj.zero, fc.codebook, proj.codebook, fc.unit, proj.unit]
        outputs = [rows("y", hidden), new_value("scratch", ir.DataType.UINT8, ("T", self.scratch_bytes))]
        return operator("QuantizedExperts", inputs, outputs, self.attributes)

    def run(
        self,
        kernel: Kernel,
        x: Array,
        x_scale: Array,
        logits: Array,
        residual: Array | None = None,
        *,
        threads: int = 1,
    ) -> npt.NDArray[np.float32]:
        """Its scratch memory is as large as it says, and no byte behind it is written."""
        shape = (len(x), self.sizes[0])
        y = np.full(shape, np.nan, np.float32) if residual is None else residual.copy()
        memory = aligned(np.full(len(x) * self.scratch_bytes + 256, _GUARD, np.uint8))
        record = to_record(x, self.fc.group if self.fc.group < x.shape[1] else 0)
        scales, given = np.ascontiguousarray(x_scale), np.ascontiguousarray(logits)
        packed = (*kernel.packed, None, None)[:4]
        added = None if residual is None else y
        kernel.run(len(x), record, scales, *packed, given, None, added, y, memory, threads=threads)
        assert (memory[len(x) * self.scratch_bytes :] == _GUARD).all()
        return y

    def expected(self, x: Array, x_scale: Array, logits: Array) -> Array:
        stacks = (self.fc.weight, self.fc.meant, self.proj.weight, self.proj.meant)
        beside = (self.fc.zero, self.proj.zero, self.fc.codebook, self.proj.codebook)
        return quantized_experts(x, x_scale, *stacks, logits, None, *self.biases, *beside, **self.attributes)[0]


def random_stack(rng: np.random.Generator, kind: str, n: int, k: int) -> Stack:
    """Scales such that outputs are of the size of the rows. "float8" has them for each row, or each of its groups."""
    size = float(k**-0.5)
    if kind == "float8":
        group = int(rng.choice([0, *(each for each in (16, 48, 128) if each < k)]))
        shape = (n, -(-k // group)) if group else n
        return Stack(random_weight8(rng, n, k), (rng.uniform(0.005, 0.02, shape) * size).astype(np.float32), group)
    if kind == "int8":
        return Stack(random_weight(rng, 8, n, k), rng.uniform(0.005, 0.02, n).astype(np.float32) * np.float32(size), 0)
    group = int(rng.choice([16, 32, 64]))
    groups = -(-k // group)
    weight = random_weight(rng, 4, n, k)
    if kind == "multiples":
        multiples = rng.integers(-MOST_MULTIPLE, MOST_MULTIPLE + 1, (n, groups)).astype(np.int8)
        return Stack(weight, multiples, group, unit=rng.uniform(0.005, 0.03, n).astype(np.float32) * np.float32(size))
    scale = (rng.uniform(0.05, 0.2, (n, groups)) * size).astype(np.float32)
    if kind == "codes":
        table = np.sort(rng.standard_normal(16)).astype(np.float32)
        codes = rng.integers(0, 16, (n, k)).astype(ml_dtypes.uint4)
        return Stack(codes, scale, group, codebook=table)
    return Stack(weight, scale, group, zero=(rng.standard_normal((n, groups)) * 0.1).astype(np.float32))


def random_mixture(rng: np.random.Generator, kind: str, row_bits: int) -> Mixture:
    count, hidden, size = int(rng.integers(2, 20)), int(rng.integers(1, 200)), int(rng.integers(1, 150))
    fc, proj = random_stack(rng, kind, count * 2 * size, hidden), random_stack(rng, kind, count * hidden, size)
    attributes = {
        "top_k": int(rng.integers(1, count + 1)),
        "routing": str(rng.choice(["softmax", "renormalized"])),
        "epsilon": 0.0,
        "scale": 1.0,
        "groups": 1,
        "top_groups": 1,
        "activation": str(rng.choice(["silu", "gelu_tanh", "clamped_swiglu"])),
        "group_size": fc.group,
        "inner_group_size": proj.group,
        "rows": f"int{row_bits}",
        "experts": count,
    }
    widths = (2 * size, hidden)
    biases = [rng.standard_normal((count, width)).astype(np.float32) for width in widths]
    given = (biases[0], biases[1]) if rng.random() < 0.5 else (None, None)
    return Mixture(fc, proj, attributes, given, row_bits)


@pytest.mark.parametrize("level", every_level())
def test_quantized_experts_are_as_defined_and_a_row_does_not_see_its_company(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    """Two of the kinds in each run on this machine's own level, and one on another: each takes the compiler seconds."""
    kinds = [("int8", 8), ("int8", 16), ("multiples", 8), ("multiples", 16), ("groups", 16), ("codes", 16)]
    mixtures = [random_mixture(rng, *kinds[i]) for i in rng.permutation(len(kinds))[: 2 if level == levels()[0] else 1]]
    kernels = compile_kernels([mixture.graph() for mixture in mixtures], level, tmp_path)
    for kernel, mixture in zip(kernels, mixtures, strict=True):
        hidden, _ = mixture.sizes
        number = int(rng.choice([1, rng.integers(2, 9), rng.integers(9, 300)]))
        x = random_levels(rng, mixture.row_bits, number, hidden)
        x_scale = (rng.uniform(0.5, 2, number) / (127 if mixture.row_bits == 8 else 32639)).astype(np.float32)
        logits = random_logits(rng, number, mixture.experts)
        y = mixture.run(kernel, x, x_scale, logits)
        expected = mixture.expected(x, x_scale, logits)
        # Rows between the two products are now and then rounded to the other neighbour than the reference's.
        slack = (2**-6 if mixture.row_bits == 8 else 2**-13) * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(y, expected, rtol=0, atol=slack, err_msg=str(mixture.attributes))
        for threads in (2, 3):
            np.testing.assert_array_equal(mixture.run(kernel, x, x_scale, logits, threads=threads), y)
        for start, stop in (sorted(rng.integers(0, number + 1, 2)), (0, 1), (number - 1, number)):
            part = (each[start:stop] for each in (x, x_scale, logits))
            np.testing.assert_array_equal(mixture.run(kernel, *part, threads=2), y[start:stop])
        again = many_times(rng, number)
        residual = rng.standard_normal((len(again), hidden), np.float32)
        for given in (again, np.arange(number)):
            added = residual[: len(given)]
            sums = mixture.run(kernel, x[given], x_scale[given], logits[given], added, threads=2)
            np.testing.assert_array_equal(sums, y[given] + added)
