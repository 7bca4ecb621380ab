"""Kernels that treat rows one by one: norms, embeddings, gathering, and what is computed element by element."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.graph.operators import ACTIVATIONS
from inflight.build.graph.values import new_value
from inflight.build.passes.rewrite import fused
from tests.kernel.cpu.harness import Kernel, compile_kernels, levels, operator, rows
from tests.oracles.fused_floats import layer_norm, rms_norm
from tests.oracles.fused_operators import REFERENCES, clip_rows, qkv_norm, round_rows

pytestmark = pytest.mark.kernel

LEVELS = pytest.mark.parametrize("level", levels(), ids=lambda level: str(level.name))
EPSILON = 1e-5


@LEVELS
@pytest.mark.parametrize("act", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def test_norms_are_as_defined_and_a_row_does_not_see_its_company(
    level: Any, act: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    width, count = int(rng.integers(1, 300)), int(rng.integers(1, 40))
    weight = rng.standard_normal(width, np.float32).astype(act)
    x = rng.standard_normal((count, width), np.float32) * 3
    out = ir.tensor(np.zeros(1, act)).dtype
    graph = operator("RMSNorm", [rows("x", width), weight], [rows("y", width, out)], {"epsilon": EPSILON})
    (norm,) = compile_kernels([graph], level, tmp_path)
    tolerance: dict[str, Any] = {"rtol": 2**-8 if act != np.float32 else 3e-6, "atol": 1e-6}
    y, alone = np.zeros((2, count, width), act)
    norm.run(count, x, norm.packed[0], y, threads=2)
    np.testing.assert_allclose(y.astype(np.float32), rms_norm(x, weight, epsilon=EPSILON), **tolerance)
    norm.run(1, x[-1:], norm.packed[0], alone)
    np.testing.assert_array_equal(alone[0], y[-1])


@LEVELS
def test_a_norm_adds_to_the_residual_stream_in_place_or_beside_it(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    width, count = int(rng.integers(1, 300)), int(rng.integers(1, 40))
    weight = rng.standard_normal(width, np.float32)
    x, residual = rng.standard_normal((2, count, width), np.float32)
    inputs = [rows("x", width), weight, rows("residual", width)]
    (norm,) = compile_kernels([operator("RMSNorm", inputs, [rows("y", width)], {"epsilon": EPSILON})], level, tmp_path)
    y, alone = np.full((2, count, width), np.nan, np.float32)
    norm.run(count, x, norm.packed[0], residual, y, threads=2)
    np.testing.assert_allclose(y, rms_norm(x, weight, residual, epsilon=EPSILON), rtol=3e-6, atol=3e-6)
    norm.run(1, x[-1:], norm.packed[0], residual[-1:], alone)
    np.testing.assert_array_equal(alone[0], y[-1])
    norm.run(count, x, norm.packed[0], residual, residual)
    np.testing.assert_array_equal(residual, y)


@LEVELS
@pytest.mark.parametrize("act", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("biased", [True, False])
def test_layer_norms_are_as_defined_and_a_row_does_not_see_its_company(
    level: Any, act: Any, biased: bool, rng: np.random.Generator, tmp_path: Path
) -> None:
    width, count = int(rng.integers(2, 300)), int(rng.integers(1, 40))
    weight, bias = rng.standard_normal((2, width), np.float32).astype(act)
    x = rng.standard_normal((count, width), np.float32) * 3 + 2
    out = ir.tensor(np.zeros(1, act)).dtype
    given = bias if biased else None
    graph = operator("LayerNorm", [rows("x", width), weight, given], [rows("y", width, out)], {"epsilon": EPSILON})
    (norm,) = compile_kernels([graph], level, tmp_path)
    packed = (*norm.packed, None)[:2]
    y, alone = np.zeros((2, count, width), act)
    norm.run(count, x, *packed, y, threads=2)
    rounding = 2**-8 if act != np.float32 else 1e-5
    expected = layer_norm(x, weight, given, epsilon=EPSILON)
    np.testing.assert_allclose(y.astype(np.float32), expected, rtol=rounding, atol=2e-5)
    norm.run(1, x[-1:], *packed, alone)
    np.testing.assert_array_equal(alone[0], y[-1])


@LEVELS
@pytest.mark.parametrize("stored", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def test_queries_and_keys_are_normed_each_as_a_whole_and_values_stay_as_they_are(
    level: Any, stored: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    size, count = int(rng.integers(1, 70)), int(rng.integers(1, 40))
    query, key = size * int(rng.integers(1, 6)), size * int(rng.integers(1, 4))
    width = query + 2 * key
    norms = [rng.standard_normal(part, np.float32).astype(stored) for part in (query, key)]
    x = rng.standard_normal((count, width), np.float32) * rng.choice([1e-3, 1, 50], (count, 1)).astype(np.float32)
    graph = operator("QkvNorm", [rows("qkv", width), *norms], [rows("y", width)], {"epsilon": EPSILON})
    (kernel,) = compile_kernels([graph], level, tmp_path)
    y, alone = np.full((2, count, width), np.nan, np.float32)
    kernel.run(count, x, *kernel.packed, y, threads=3)
    np.testing.assert_allclose(y, qkv_norm(x, *norms, epsilon=EPSILON), rtol=3e-6, atol=1e-6)
    np.testing.assert_array_equal(y[:, query + key :], x[:, query + key :])
    kernel.run(1, x[-1:], *kernel.packed, alone)
    np.testing.assert_array_equal(alone[0], y[-1])
    memory = x.copy()
    kernel.run(count, memory, *kernel.packed, memory, threads=2)
    np.testing.assert_array_equal(memory, y)


# Halves of the last place on both sides, what rounds up to infinity, the least normal number, and no numbers at all. Of
# what is below that number processors with an instruction for it make 0.
_EDGES = [0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.3961776e38, -3.4e38, 1.1754944e-38, np.inf, -np.inf]


@LEVELS
def test_rows_are_rounded_to_nearest_even_and_a_row_does_not_see_its_company(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    width, count = int(rng.integers(1, 200)), int(rng.integers(1, 20))
    x = (rng.standard_normal((count, width)) * 10.0 ** rng.integers(-30, 30, (count, width))).astype(np.float32)
    places = rng.integers(0, x.size, min(x.size, 2 * len(_EDGES)))
    x.reshape(-1)[places] = rng.choice(_EDGES, len(places)).astype(np.float32)
    graph = operator("RoundRows", [rows("x", width)], [rows("y", width, ir.DataType.BFLOAT16)], {})
    (kernel,) = compile_kernels([graph], level, tmp_path)
    y, alone = np.zeros((2, count, width), ml_dtypes.bfloat16)
    kernel.run(count, x, y, threads=3)
    with np.errstate(over="ignore"):
        expected = round_rows(x).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(y.view(np.uint16), expected.view(np.uint16))
    kernel.run(1, x[-1:], alone)
    np.testing.assert_array_equal(alone[0].view(np.uint16), y[-1].view(np.uint16))


@LEVELS
def test_clipped_rows_end_at_the_limits_exactly_whatever_they_hold(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    width, count = int(rng.integers(1, 200)), int(rng.integers(1, 20))
    limit = float(np.float32(10 ** rng.uniform(-3, 3)))
    beside = [np.nextafter(np.float32(edge), np.float32(way)) for edge in (limit, -limit) for way in (-np.inf, np.inf)]
    values = [0.0, limit, -limit, *beside, np.inf, -np.inf, 3.4e38, 1e-45]
    x = rng.choice(np.array(values, np.float32), (count, width))
    graph = operator("ClipRows", [rows("x", width)], [rows("y", width)], {"low": -limit, "high": limit})
    (kernel,) = compile_kernels([graph], level, tmp_path)
    y, alone = np.full((2, count, width), np.nan, np.float32)
    kernel.run(count, x, y, threads=3)
    np.testing.assert_array_equal(y, clip_rows(x, low=-limit, high=limit))
    kernel.run(1, x[-1:], alone)
    np.testing.assert_array_equal(alone[0], y[-1])


ELEMENTWISE: list[tuple[str, dict[str, Any]]] = [
    *(("Activation", {"activation": activation}) for activation in ACTIVATIONS),
    ("Xielu", {"positive": 0.83, "negative": 1.21, "beta": 0.5, "epsilon": -1e-6}),
    ("Scale", {"factor": 0.37}),
    ("SoftCap", {"cap": 1.5}),
    ("ClipRows", {"low": -1.2, "high": 0.7}),
    ("AddRows", {"factor": -1.7}),
]


@LEVELS
def test_what_is_computed_element_by_element_is_as_defined_whoever_computes_it(
    level: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    width, count = int(rng.integers(1, 200)), int(rng.integers(1, 20))
    x, residual = rng.standard_normal((2, count, width), np.float32) * 3
    names = ["x", "residual"]
    sources = [names[: 2 if op_type == "AddRows" else 1] for op_type, _ in ELEMENTWISE]
    graphs = [
        operator(op_type, [rows(name, width) for name in given], [rows("y", width)], attributes)
        for (op_type, attributes), given in zip(ELEMENTWISE, sources, strict=True)
    ]
    for kernel, (op_type, attributes), given in zip(
        compile_kernels(graphs, level, tmp_path), ELEMENTWISE, sources, strict=True
    ):
        inputs = [x, residual][: len(given)]
        y, alone = np.full((2, count, width), np.nan, np.float32)
        kernel.run(count, *inputs, y, threads=3)
        np.testing.assert_allclose(y, REFERENCES[op_type](*inputs, **attributes), rtol=1e-5, atol=2e-6)
        kernel.run(1, *(array[-1:] for array in inputs), alone)
        np.testing.assert_array_equal(alone[0], y[-1])
        memory = inputs[-1].copy()
        kernel.run(count, *inputs[:-1], memory, memory, threads=2)
        np.testing.assert_array_equal(memory, y)


@LEVELS
def test_an_activation_is_rounded_to_the_type_of_its_rows(level: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    width, count = int(rng.integers(1, 200)), int(rng.integers(1, 20))
    x = rng.standard_normal((count, width), np.float32)
    types = (ir.DataType.FLOAT, ir.DataType.BFLOAT16)
    graphs = [operator("Activation", [rows("x", width)], [rows("y", width, t)], {"activation": "gelu"}) for t in types]
    exact, rounded = np.zeros((count, width), np.float32), np.zeros((count, width), ml_dtypes.bfloat16)
    for kernel, y in zip(compile_kernels(graphs, level, tmp_path), (exact, rounded), strict=True):
        kernel.run(count, x, y, threads=2)
    np.testing.assert_array_equal(rounded, exact.astype(ml_dtypes.bfloat16))


@LEVELS
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("tied", [False, True], ids=["own table", "tied"])
def test_embeddings_are_looked_up_exactly_in_rows_and_in_panels(
    level: Any, dtype: Any, tied: bool, rng: np.random.Generator, tmp_path: Path
) -> None:
    vocab, width, count = (int(x) for x in rng.integers(1, 200, 3))
    table = rng.standard_normal((vocab, width), np.float32).astype(dtype)
    ids = new_value("token_ids", ir.DataType.INT32, ("T",))
    scale = float(np.float32(rng.choice([1.0, 13.75])))
    graph = operator("EmbeddingLookup", [ids, table], [rows("x", width)], {"scale": scale})
    if tied:
        graph.append(fused("Linear", [rows("h", width), graph[0].inputs[1]], [rows("logits", vocab)]))
    (kernel,) = compile_kernels([graph], level, tmp_path)
    assert len(kernel.packed) == 1
    x = np.full((count, width), np.nan, np.float32)
    numbers = rng.integers(0, vocab, count).astype(np.int32)
    if tied:
        kernel.run(count, numbers, kernel.packed[0], x, threads=2)
    else:
        _run_from_file(kernel, tmp_path / "table", count, numbers, x)
    np.testing.assert_array_equal(x, table[numbers].astype(np.float32) * np.float32(scale))


class _StoredTable(ctypes.Structure):
    """`stored_table` of embedding.h."""

    _fields_ = [("file", ctypes.c_int32), ("offset", ctypes.c_int64), ("status", ctypes.POINTER(ctypes.c_int32))]


def _run_from_file(kernel: Kernel, path: Path, count: int, numbers: Any, x: Any) -> None:
    """Behind another tensor in the file; what is cut off is told."""
    path.write_bytes(bytes(64) + kernel.packed[0].tobytes())
    status = ctypes.c_int32(0)
    with path.open("rb") as file:
        table = _StoredTable(file.fileno(), 64, ctypes.pointer(status))
        kernel.run(count, numbers, ctypes.addressof(table), x, threads=2)
        assert status.value == 0
        os.truncate(path, 0)
        kernel.run(count, numbers, ctypes.addressof(table), x.copy(), threads=2)
        assert status.value == 3


@LEVELS
def test_gathered_rows_are_the_rows_of_those_numbers(level: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    width, count, wanted = (int(x) for x in rng.integers(1, 100, 3))
    numbers = new_value("logit_rows", ir.DataType.INT32, ("R",))
    graph = operator("GatherRows", [rows("x", width), numbers], [new_value("y", ir.DataType.FLOAT, ("R", width))], {})
    (kernel,) = compile_kernels([graph], level, tmp_path)
    x = rng.standard_normal((count, width), np.float32)
    chosen = rng.integers(0, count, wanted).astype(np.int32)
    y = np.zeros((wanted, width), np.float32)
    kernel.run(wanted, chosen, x, y, threads=2)
    np.testing.assert_array_equal(y, x[chosen])
