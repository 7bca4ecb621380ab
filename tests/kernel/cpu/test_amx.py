"""Products in tiles of AMX, compiled over a model of its instructions in C (amx_model.h)."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from inflight.build.graph.operators import ACTIVATIONS
from inflight.build.targets.cpu.compiler.cpu_levels import native_level
from inflight.convert.quantization.multiples import MOST_MULTIPLE
from tests.kernel.cpu.harness import Array, Kernel, compile_kernels, operator, rows
from tests.kernel.cpu.quantized import (
    float8_value,
    integer_rows,
    random_levels,
    random_weight,
    random_weight8,
    row_scales,
    to_record,
)
from tests.oracles.fused_floats import gated_linear, linear
from tests.oracles.fused_quantized import quantized_gated_linear, quantized_linear

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not native_level().triple.startswith("x86_64"), reason="the model needs x86-64's headers"),
]

MODEL = Path(__file__).with_name("amx_model.h").read_text()
BFLOAT16: Any = ml_dtypes.bfloat16
ROWS_IN_VECTORS = 1  # at most, of whatever width and scales
# Below the rows of one tile of vectors, where multiples leave them, around one and two tiles of AMX, and beyond a block
# of rows.
HEIGHTS = (1, 2, 4, 6, 7, 15, 16, 17, 31, 32, 33, 96, 97)


def _with_model(graphs: Sequence[ir.Graph], directory: Path) -> list[Kernel]:
    return compile_kernels(graphs, native_level(), directory, preamble=MODEL)


def _at_the_end_of_memory(array: Array) -> Array:
    """A copy behind which nothing can be read, so that a kernel that reads on crashes."""
    page = mmap.PAGESIZE
    size = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    view = np.frombuffer(memory, np.uint8)
    protected = ctypes.CDLL(None).mprotect(ctypes.c_void_p(view.ctypes.data + size), ctypes.c_size_t(page), 0)
    assert protected == 0
    copy = view[size - array.nbytes : size].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def check_instructions(library: ctypes.CDLL) -> None:
    """Tiles were multiplied, as a CPU would have done it, and none are held."""
    assert library.amx_products() > 0
    assert library.amx_faults() == 0
    assert library.amx_tiles_in_use() == 0


class _Product:
    """A quantized product of one kind: its graph, random rows, and a run. `multiples`: its scales are multiples of a
    unit.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        bits: tuple[int, int],
        group: int,
        shape: tuple[int, int],
        multiples: bool = False,
    ) -> None:
        (self.weight_bits, self.row_bits), self.group, (self.n, self.k) = bits, group, shape
        self._rng = rng
        self._residual = rng.standard_normal(self.n, np.float32)
        self._gated = False
        self._multiples = multiples
        self._has_zeros = group > 0 and not multiples and rng.random() < 0.5

    def graph(self, gated: bool) -> ir.Graph:
        self._gated = gated
        inputs = [integer_rows("x", self.k, self.row_bits), row_scales("x_scale")]
        weights = [x for _ in range(1 + gated) for x in self._weight()]
        biases = list(self._rng.standard_normal((1 + gated, self.n), np.float32))
        zeros = [self._scale() if self._has_zeros else None for _ in range(1 + gated)]
        units = [None, *(self._unit() for _ in range(1 + gated))] if self._multiples else []
        if gated:
            biases += zeros if self._has_zeros or units else []
            biases += units
            attributes = {"activation": str(self._rng.choice(ACTIVATIONS)), "group_size": self.group}
            return operator("QuantizedGatedLinear", [*inputs, *weights, *biases], [rows("y", self.n)], attributes)
        added = [*biases, *zeros, rows("residual", self.n), *units]
        return operator("QuantizedLinear", [*inputs, *weights, *added], [rows("y", self.n)], {"group_size": self.group})

    def _weight(self) -> tuple[Array, Array]:
        return random_weight(self._rng, self.weight_bits, self.n, self.k), self._scale()

    def _scale(self) -> Array:
        """Or zero points, of either sign."""
        shape = (self.n, -(-self.k // self.group)) if self.group else (self.n,)
        if self._multiples:
            multiples: Array = self._rng.integers(-MOST_MULTIPLE, MOST_MULTIPLE + 1, shape).astype(np.int8)
            return multiples
        scale: Array = (self._rng.uniform(0.5, 2, shape) * self._rng.choice([-1, 1], shape) / 4096).astype(np.float32)
        return scale

    def _unit(self) -> Array:
        return self._rng.uniform(0, 1 / 4096, self.n).astype(np.float32)

    def record(self, count: int) -> Array:
        return to_record(random_levels(self._rng, self.row_bits, count, self.k), self.group)

    def run(self, kernel: Kernel, record: Array, x_scale: Array, threads: int = 1) -> npt.NDArray[np.float32]:
        """A linear product is added to the same residual in every row, in place."""
        y = np.full((len(record), self.n), np.nan, np.float32)
        packed = [_at_the_end_of_memory(array) for array in kernel.packed]
        if not self._gated:
            y = _at_the_end_of_memory(np.tile(self._residual, (len(record), 1)))
        added = [] if self._gated else [y]
        kernel.run(len(record), _at_the_end_of_memory(record), x_scale, *packed, *added, y, threads=threads)
        return y


def _products(rng: np.random.Generator) -> list[_Product]:
    """8 bits with one scale a row, 4 bits with groups, and one of the other kinds; shapes that fill no tile."""
    group = int(rng.choice([16, 32, 48, 64, 80, 128]))
    others = [
        ((8, 16), 0),
        ((8, 16), group),
        ((8, 8), group),
        ((4, 16), group),
        ((4, 24), group),
        ((4, 8), 0),
        ((4, 16), 0),
    ]
    kinds = [((8, 8), 0), ((4, 8), group), others[rng.integers(len(others))]]

    def shape() -> tuple[int, int]:
        return int(rng.integers(1, 150)), int(rng.integers(1, 500))

    free = [_Product(rng, bits, g, shape()) for bits, g in kinds]
    return [*free, _Product(rng, (4, int(rng.choice([8, 16, 24]))), group, shape(), multiples=True)]


def _in_vectors(product: _Product, kernel: Kernel, record: Array, x_scale: Array) -> npt.NDArray[np.float32]:
    """The product a few rows at a time, for which no tile is multiplied."""
    before = kernel.library.amx_products()
    starts = range(0, len(record), ROWS_IN_VECTORS)
    parts = [slice(start, start + ROWS_IN_VECTORS) for start in starts]
    y = np.concatenate([product.run(kernel, record[part], x_scale[part]) for part in parts])
    assert kernel.library.amx_products() == before
    return y


def _check_integer_products(
    rng: np.random.Generator, products: Sequence[_Product], gated: bool, directory: Path
) -> None:
    kernels = _with_model([product.graph(gated) for product in products], directory)
    for product, kernel in zip(products, kernels, strict=True):
        for count in (*rng.choice(HEIGHTS, 4, replace=False), rng.integers(ROWS_IN_VECTORS + 1, 100)):
            record = product.record(int(count))
            x_scale = rng.uniform(0, 0.1, int(count)).astype(np.float32)
            expected = _in_vectors(product, kernel, record, x_scale)
            np.testing.assert_array_equal(product.run(kernel, record, x_scale), expected)
            np.testing.assert_array_equal(product.run(kernel, record, x_scale, threads=2), expected)
    check_instructions(kernels[0].library)


def test_integer_products_in_tiles_are_the_bits_of_vectors(rng: np.random.Generator, tmp_path: Path) -> None:
    """Two of the four kinds in each run: each takes the compiler seconds."""
    products = _products(rng)
    _check_integer_products(rng, [products[i] for i in rng.choice(len(products), 2, replace=False)], False, tmp_path)


def test_gated_integer_products_in_tiles_are_the_bits_of_vectors(rng: np.random.Generator, tmp_path: Path) -> None:
    _check_integer_products(rng, [_products(rng)[rng.integers(4)]], True, tmp_path)


def _bfloat16(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape, np.float32).astype(BFLOAT16)


def _among_nan(x: Array) -> Array:
    """`x` in the middle of rows that are NaN."""
    padded = np.full((len(x) + 2, x.shape[1]), np.nan, x.dtype)
    padded[1:-1] = x
    return padded[1:-1]


def _check_float_product(rng: np.random.Generator, kernel: Kernel, gate_or_weight: Array, up: Array | None) -> None:
    """Near the exact product, and the same bits for rows alone, in company and on two threads."""
    n, k = gate_or_weight.shape
    x = _bfloat16(rng, int(rng.integers(97, 130)), k)
    packed = [_at_the_end_of_memory(array) for array in kernel.packed]

    def run(part: Array, threads: int = 1, residual: Array | None = None) -> Array:
        y: Array = np.full((len(part), n), np.nan, np.float32 if up is None else BFLOAT16)
        middle = (packed[0], None, residual) if up is None else (packed[0], None)
        kernel.run(len(part), _among_nan(part), *middle, y, threads=threads)
        return y.view(np.uint32 if up is None else np.uint16)

    y = run(x)
    if up is None:
        exact = linear(x, gate_or_weight, None)
        np.testing.assert_allclose(y.view(np.float32), exact, rtol=2e-6 * np.sqrt(k), atol=2e-6 * k)
        residual = rng.standard_normal(y.shape, np.float32)
        total = run(x, threads=2, residual=_at_the_end_of_memory(residual)).view(np.float32)
        np.testing.assert_array_equal(total, residual + y.view(np.float32))
        for height in HEIGHTS:
            in_place = residual[:height].copy()
            kernel.run(height, _among_nan(x[:height]), packed[0], None, in_place, in_place)
            np.testing.assert_array_equal(in_place, total[:height])
    else:
        exact = gated_linear(x, gate_or_weight, up, activation="silu").astype(np.float32)
        np.testing.assert_allclose(y.view(BFLOAT16).astype(np.float32), exact, rtol=2**-6, atol=1e-5 * k)
    np.testing.assert_array_equal(run(x, threads=2), y)
    for height in HEIGHTS:
        start = int(rng.integers(0, len(x) - height + 1))
        np.testing.assert_array_equal(run(x[start : start + height]), y[start : start + height])


def test_bfloat16_products_in_tiles_do_not_see_their_company(rng: np.random.Generator, tmp_path: Path) -> None:
    shapes = [(int(rng.integers(1, 200)), int(rng.integers(1, 300))) for _ in range(2)]
    shapes.append((int(rng.integers(1, 65)), int(rng.integers(2400, 2700))))  # sums rest between two stretches
    weights = [_bfloat16(rng, *shape) for shape in shapes]
    gate, up = (_bfloat16(rng, *shapes[0]) for _ in range(2))
    graphs = [
        operator("Linear", [rows("x", w.shape[1], ir.DataType.BFLOAT16), w, None], [rows("y", w.shape[0])], {})
        for w in weights
    ]
    gated = rows("y", len(gate), ir.DataType.BFLOAT16)
    x = rows("x", gate.shape[1], ir.DataType.BFLOAT16)
    graphs.append(operator("GatedLinear", [x, gate, up], [gated], {"activation": "silu"}))
    *plain, with_gate = _with_model(graphs, tmp_path)
    for kernel, weight in zip(plain, weights, strict=True):
        _check_float_product(rng, kernel, weight, None)
    _check_float_product(rng, with_gate, gate, up)
    check_instructions(with_gate.library)


@pytest.mark.parametrize("grouped", [False, True])
def test_products_of_8_bit_floats_in_tiles_do_not_see_their_company(
    rng: np.random.Generator, tmp_path: Path, grouped: bool
) -> None:
    n, k = int(rng.integers(1, 200)), int(rng.integers(1 + 304 * grouped, 700))
    group = int(rng.choice([16, 48, 128, 304])) if grouped else 0
    shares: list[Any] = [(n, -(-k // group))] * 2 if grouped else [n, 1]
    (weight, scale), (up, up_scale) = [
        (random_weight8(rng, n, k), (rng.uniform(0.5, 2, size) / 65536).astype(np.float32)) for size in shares
    ]

    def inputs() -> list[Array | ir.Value]:
        return [float8_value("x", k), row_scales("x_scale"), weight, scale]

    added = [None, None, rows("residual", n)]
    gate_and_up = [up, up_scale, *rng.standard_normal((2, n), np.float32)]
    gate: dict[str, Any] = {"activation": str(rng.choice(ACTIVATIONS)), "group_size": group}
    graphs = [
        operator("QuantizedLinear", [*inputs(), *added], [rows("y", n)], {"group_size": group}),
        operator("QuantizedGatedLinear", [*inputs(), *gate_and_up], [rows("y", n)], gate),
    ]
    plain, gated = _with_model(graphs, tmp_path)
    count = int(rng.integers(97, 130))
    x, x_scale = random_weight8(rng, count, k), rng.uniform(0, 0.1, count).astype(np.float32)
    wide, residual = x.astype(BFLOAT16), rng.standard_normal((count, n), np.float32)

    def run(kernel: Kernel, part: slice, y: Array, *more: Array | None, threads: int = 1) -> Array:
        packed = [_at_the_end_of_memory(array) for array in kernel.packed]
        kernel.run(len(y), _at_the_end_of_memory(wide[part]), x_scale[part].copy(), *packed, *more, y, threads=threads)
        return y

    everything = slice(0, count)
    y = run(plain, everything, np.full((count, n), np.nan, np.float32), None, None)
    exact = quantized_linear(x, x_scale, weight, scale, group_size=group)
    terms = quantized_linear(abs(x), x_scale, abs(weight), scale, group_size=group)
    assert (abs(y - exact) <= 2e-6 * abs(terms) + 1e-30).all()
    z = run(gated, everything, np.full((count, n), np.nan, np.float32))
    expected = quantized_gated_linear(x, x_scale, weight, scale, *gate_and_up, **gate)
    np.testing.assert_allclose(z, expected, rtol=2e-4, atol=2e-5 * (1 + float(abs(expected).max())))
    for height in HEIGHTS:
        start = int(rng.integers(0, count - height + 1))
        part = slice(start, start + height)
        in_place = residual[part].copy()
        run(plain, part, in_place, None, in_place, threads=2)
        np.testing.assert_array_equal(in_place, residual[part] + y[part])
        np.testing.assert_array_equal(run(gated, part, np.empty_like(z[part]), threads=2), z[part])
    check_instructions(plain.library)
