"""Mixtures of experts against NumPy; the same bits for a row alone, in company, on any number of threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from inflight.build.graph.expert_scratch import ExpertRows, scratch_row_bytes
from inflight.build.graph.operators import activation_type
from inflight.build.graph.values import new_value
from tests.kernel.cpu.harness import Array, Kernel, compile_kernels, every_level, levels, operator, rows
from tests.oracles.fused_experts import experts, gate_whole_rows

pytestmark = pytest.mark.kernel

TOLERANCE = 3e-6
_GUARD = 0x5A


class Mixture(NamedTuple):
    """The stacks of one operator, and its attributes."""

    fc: Array
    proj: Array
    attributes: dict[str, Any]
    biases: tuple[Array, Array] | tuple[None, None] = (None, None)
    choice: Array | None = None

    @property
    def act(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = activation_type(ir.tensor(self.fc).dtype).numpy()
        return dtype

    @property
    def scratch_bytes(self) -> int:
        count, hidden, size = self.proj.shape
        act = activation_type(ir.tensor(self.fc).dtype)
        return scratch_row_bytes(count, self.attributes["top_k"], hidden, size, ExpertRows(act, act))

    def graph(self) -> ir.Graph:
        count, hidden, _ = self.proj.shape
        act = activation_type(ir.tensor(self.fc).dtype)
        inputs = [rows("x", hidden, act), self.fc, self.proj, rows("logits", count), rows("residual", hidden)]
        inputs += [*self.biases, self.choice]
        scratch = new_value("scratch", ir.DataType.UINT8, ("T", self.scratch_bytes))
        return operator("Experts", inputs, [rows("y", hidden), scratch], self.attributes)

    def run(
        self, kernel: Kernel, x: Array, logits: Array, residual: Array | None = None, *, threads: int = 1
    ) -> npt.NDArray[np.float32]:
        """Its scratch memory is as large as it says, and no byte behind it is written."""
        y = np.full(x.shape, np.nan, np.float32) if residual is None else residual.copy()
        scratch = np.full(len(x) * self.scratch_bytes + 256, _GUARD, np.uint8)
        start = -scratch.ctypes.data % 64
        memory = scratch[start:]
        logits = np.ascontiguousarray(logits)
        packed = [*kernel.packed[:2], *(kernel.packed[2:4] if self.biases[0] is not None else (None, None))]
        kernel.run(
            len(x),
            np.ascontiguousarray(x),
            *packed,
            logits,
            None if self.choice is None else kernel.packed[-1],
            None if residual is None else y,
            y,
            memory,
            threads=threads,
        )
        assert (memory[len(x) * self.scratch_bytes :] == _GUARD).all()
        return y

    def expected(self, x: Array, logits: Array) -> Array:
        fc_bias, proj_bias = self.biases
        return experts(x, self.fc, self.proj, logits, None, fc_bias, proj_bias, self.choice, **self.attributes)[0]


def random_mixture(
    rng: np.random.Generator, dtype: Any, routing: str, top_k: int | None = None, hidden: int | None = None
) -> Mixture:
    count, size = int(rng.integers(2, 40)), int(rng.integers(1, 150))
    hidden = int(rng.integers(1, 200)) if hidden is None else hidden
    alone = ("sparse_mixer", "renormalized", "sigmoid_inputs")
    grouped = top_k is None and routing not in alone and rng.random() < 0.7
    groups, members = (int(rng.integers(1, 6)), int(rng.integers(2, 20))) if grouped else (1, count)
    count, top_groups = groups * members, int(rng.integers(1, groups + 1))
    top_k = (
        2 if routing == "sparse_mixer" else int(rng.integers(1, top_groups * members + 1)) if top_k is None else count
    )
    attributes = {
        "top_k": top_k,
        "routing": routing,
        "epsilon": 0.0 if routing in ("softmax", "renormalized", "sigmoid_inputs") else float(rng.uniform(0.01, 0.5)),
        "scale": float(np.float32(rng.uniform(0.5, 2.5))) if routing.startswith("biased") or grouped else 1.0,
        "groups": groups,
        "top_groups": top_groups,
        "activation": str(rng.choice(["silu", "gelu_tanh", "clamped_swiglu"])),
    }
    fc = rng.standard_normal((count, 2 * size, hidden), np.float32) * hidden**-0.5
    proj = rng.standard_normal((count, hidden, size), np.float32) * size**-0.5
    biases = [rng.standard_normal((count, width), np.float32).astype(dtype) for width in (2 * size, hidden)]
    given = (biases[0], biases[1]) if rng.random() < 0.5 else (None, None)
    choice = rng.standard_normal(count).astype(np.float32) * 0.1 if routing.startswith("biased") else None
    return Mixture(fc.astype(dtype), proj.astype(dtype), attributes, given, choice)


def random_logits(rng: np.random.Generator, count: int, experts: int) -> npt.NDArray[np.float32]:
    """Of half of the rows all but a few are alike; and sometimes all rows choose the same experts."""
    logits = rng.standard_normal((count, experts)).astype(np.float32) * 2
    logits[::2] = np.round(logits[::2])
    if rng.random() < 0.3:
        logits += np.float32(50) * (rng.random(experts) < 2 / experts)
    return logits


def many_times(rng: np.random.Generator, number: int) -> npt.NDArray[np.int64]:
    """Rows, each of them again and again: many for their experts, and more than the kernel sums up at once."""
    return rng.permutation(np.resize(np.arange(number), max(513, number) + int(rng.integers(0, 600))))


@pytest.mark.parametrize("level", every_level())
def test_experts_are_as_defined_and_a_row_does_not_see_its_company(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    mixtures = [
        random_mixture(rng, np.float32, "softmax"),
        random_mixture(rng, np.float16, "renormalized"),
        random_mixture(rng, ml_dtypes.bfloat16, "renormalized"),
        random_mixture(rng, ml_dtypes.bfloat16, "sparse_mixer"),
        random_mixture(rng, np.float32, "renormalized", top_k=-1),
        random_mixture(rng, np.float32, "biased_softmax"),
        random_mixture(rng, np.float16, "biased_sigmoid"),
        random_mixture(rng, rng.choice([np.float32, ml_dtypes.bfloat16]), "sigmoid_inputs"),
    ]
    kernels = compile_kernels([mixture.graph() for mixture in mixtures], level, tmp_path)
    for kernel, mixture in zip(kernels, mixtures, strict=True):
        count, hidden, _ = mixture.proj.shape
        number = int(rng.choice([1, rng.integers(2, 9), rng.integers(9, 300)]))
        x = rng.standard_normal((number, hidden), np.float32).astype(mixture.act)
        logits = random_logits(rng, number, count)
        y = mixture.run(kernel, x, logits)
        # The inner rows are rounded to bfloat16, now and then to the other neighbour than the reference's.
        slack = 2**-8 if mixture.act == ml_dtypes.bfloat16 else TOLERANCE * hidden
        np.testing.assert_allclose(y, mixture.expected(x, logits), rtol=slack, atol=slack, err_msg=str(mixture[2]))
        for threads in (2, 3):
            np.testing.assert_array_equal(mixture.run(kernel, x, logits, threads=threads), y)
        for start, stop in (sorted(rng.integers(0, number + 1, 2)), (0, 1), (number - 1, number)):
            np.testing.assert_array_equal(
                mixture.run(kernel, x[start:stop], logits[start:stop], threads=2), y[start:stop]
            )
        again = many_times(rng, number)
        residual = rng.standard_normal((len(again), hidden), np.float32)
        for given in (again, np.arange(number)):
            added = residual[: len(given)]
            np.testing.assert_array_equal(
                mixture.run(kernel, x[given], logits[given], added, threads=2), y[given] + added
            )


@pytest.mark.parametrize("level", every_level())
def test_long_rows_in_many_blocks_have_the_bits_that_they_have_alone(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    """More rows of an expert than a block has, and rows that are multiplied a stretch after the other."""
    dtype = rng.choice([np.float16, ml_dtypes.bfloat16])
    mixture = random_mixture(rng, dtype, "renormalized", hidden=int(rng.integers(400, 900)))
    (kernel,) = compile_kernels([mixture.graph()], level, tmp_path)
    count, hidden, _ = mixture.proj.shape
    number, most = int(rng.integers(520, 700)), int(rng.integers(1, 4))  # of the first experts
    x = rng.standard_normal((number, hidden), np.float32).astype(mixture.act)
    logits = random_logits(rng, number, count)
    logits[:, :most] += 100
    y = mixture.run(kernel, x, logits)
    slack = 2**-7 if mixture.act == ml_dtypes.bfloat16 else TOLERANCE * hidden
    np.testing.assert_allclose(y, mixture.expected(x, logits), rtol=slack, atol=slack, err_msg=str(mixture[2]))
    for threads in (2, 3):
        np.testing.assert_array_equal(mixture.run(kernel, x, logits, threads=threads), y)
    for height in (1, 17, 40):
        start = int(rng.integers(0, number - height + 1))
        part = slice(start, start + height)
        np.testing.assert_array_equal(mixture.run(kernel, x[part], logits[part], threads=2), y[part])


def test_every_row_may_choose_one_expert_and_rows_of_no_number_are_harmless(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    mixture = random_mixture(rng, ml_dtypes.bfloat16, "softmax")._replace(
        attributes={
            "top_k": 1,
            "routing": "softmax",
            "epsilon": 0.0,
            "scale": 1.0,
            "activation": "silu",
            "groups": 1,
            "top_groups": 1,
        }
    )
    (kernel,) = compile_kernels([mixture.graph()], levels()[0], tmp_path)
    count, hidden, _ = mixture.proj.shape
    x = rng.standard_normal((400, hidden), np.float32).astype(mixture.act)
    logits = np.zeros((len(x), count), np.float32)
    y = mixture.run(kernel, x, logits, threads=3)
    # Of equal logits the first expert's number counts, with its share of all.
    np.testing.assert_allclose(y, mixture.expected(x, logits), rtol=2**-8, atol=2**-8)
    np.testing.assert_array_equal(mixture.run(kernel, x[7:8], logits[7:8]), y[7:8])
    logits[:50] = np.nan
    np.testing.assert_array_equal(mixture.run(kernel, x, logits, threads=2)[50:], y[50:])
    assert mixture.run(kernel, x[:0], logits[:0]).shape == (0, hidden)


def test_whole_rows_are_gated_by_a_number_each(rng: np.random.Generator, tmp_path: Path) -> None:
    width, number = int(rng.integers(1, 100)), int(rng.integers(1, 40))
    graph = operator("GateWholeRows", [rows("x", width), rows("gates", 1)], [rows("y", width)], {})
    (kernel,) = compile_kernels([graph], levels()[0], tmp_path)
    x, gates = (rng.standard_normal((number, size)).astype(np.float32) * 3 for size in (width, 1))
    y = np.full_like(x, np.nan)
    kernel.run(number, x, gates, y, threads=2)
    np.testing.assert_allclose(y, gate_whole_rows(x, gates), rtol=1e-6, atol=1e-6)
    alone = np.full_like(x[-1:], np.nan)
    kernel.run(1, x[-1:], gates[-1:], alone)
    np.testing.assert_array_equal(alone, y[-1:])
