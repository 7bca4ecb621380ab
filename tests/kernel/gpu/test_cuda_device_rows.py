"""Rows, products and sampling of the cuda target on a GPU, where there is one."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.gpu_kernels.spec import Variant
from inflight.runtime.sampling.reference import score_row
from tests.kernel.cpu.test_sampling import assert_same, random_logits
from tests.kernel.gpu.support.cuda_gpu import gpu, loaded, run_on_gpu
from tests.kernel.gpu.support.cuda_launch import SPECS
from tests.kernel.gpu.support.cuda_products import KINDS, Weights, assert_product
from tests.kernel.gpu.support.cuda_sampling import report, sample
from tests.kernel.gpu.test_cuda_rows import assert_quantized, random_rows
from tests.kernel.gpu.test_cuda_sampling import expected, random_row
from tests.oracles.gpu import rows as reference
from tests.oracles.gpu.weight_only import float8_numbers

from inflight.build.gpu_kernels.kernels.rms_norm import norm_variant  # isort: skip

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("_needs_gpu")]

Array = npt.NDArray[Any]


@pytest.fixture
def _needs_gpu() -> None:
    gpu()


@pytest.mark.parametrize("kind", ["int8", "float8"])
@pytest.mark.parametrize("width", [80, 896, 4096])
def test_norms_on_the_device(rng: np.random.Generator, kind: str, width: int) -> None:
    rows = random_rows(rng, 9, width, "fp32")
    variant = norm_variant(width, epsilon=1e-5, adds=True, delta="fp32", weight="fp32", y=kind)
    results = []
    for part in (rows, rows[4:5].copy()):
        arrays = {"x": part, "delta": part, "weight": np.ones(width, np.float32), "total": np.zeros_like(part)}
        arrays |= {"y": np.zeros(part.shape, np.int8), "y_scale": np.zeros(len(part), np.float32)}
        arrays |= dict.fromkeys(("stored", "low", "high"), np.zeros(1, np.float32))
        run_on_gpu("rms_norm", variant, arrays, {"rows": len(part)})
        exact = reference.rms_norm(arrays["total"], arrays["weight"], epsilon=1e-5)
        assert_quantized(arrays["y"], arrays["y_scale"], exact, kind)
        results.append(arrays)
    assert np.array_equal(results[0]["y"][4], results[1]["y"][0]), "a row depends on its company"


@pytest.mark.parametrize("kind", ["int8", "float8"])
def test_gates_on_the_device(rng: np.random.Generator, kind: str) -> None:
    gate_up = random_rows(rng, 5, 2 * 4864, "fp32")
    arrays = {"gate_up": gate_up, "y": np.zeros((5, 4864), np.int8), "y_scale": np.zeros(5, np.float32)}
    run_on_gpu(
        "swiglu_quantize",
        Variant({"gate_up": "fp32"}, {"width": 4864, "float8": kind == "float8"}),
        arrays,
        {"rows": 5},
    )
    assert_quantized(arrays["y"], arrays["y_scale"], reference.swiglu(gate_up), kind)


@pytest.mark.parametrize(("kind", "group_size"), KINDS)
@pytest.mark.parametrize(("n", "k"), [(131, 1000), (1152, 896), (4096, 4096)])
def test_products_of_few_rows_on_the_device(
    rng: np.random.Generator, kind: str, group_size: int, n: int, k: int
) -> None:
    weights = Weights(rng, kind, n, k, group_size)
    variant = weights.variant("bf16", has_bias=False)
    tuning = SPECS["weight_only"].tune(loaded("weight_only", variant).artifact.sm, variant)
    x = rng.standard_normal((33, k)).astype(ml_dtypes.bfloat16)
    together = weights.times(run_on_gpu, x, variant, tuning)
    assert_product(together, x, weights)
    for _ in range(20):
        row = int(rng.integers(33))
        alone = weights.times(run_on_gpu, x[row : row + 1].copy(), variant, tuning)
        assert np.array_equal(alone[0], together[row]), "a row depends on its company, or on which split was last"


@pytest.mark.parametrize("vocab", [1, 257, 9001, 151936])
def test_sampling_on_the_device(rng: np.random.Generator, vocab: int) -> None:
    rows = [random_row(rng, vocab) for _ in range(40)]
    logits = np.stack([random_logits(rng, vocab) for _ in rows])
    assert sample(run_on_gpu, logits, rows) == expected(logits, rows)


@pytest.mark.parametrize("vocab", [1, 9001, 151936])
def test_reports_on_the_device(rng: np.random.Generator, vocab: int) -> None:
    wanted = [-1, 0, 1, 5, 64]
    logits = np.stack([random_logits(rng, vocab) for _ in wanted])
    tokens = rng.integers(vocab, size=len(wanted)).tolist()
    results = report(run_on_gpu, logits, tokens, [-1] * len(wanted), wanted)
    for result, row, token, count in zip(results, logits, tokens, wanted, strict=True):
        assert_same(result, score_row(row, token, count))


@pytest.mark.parametrize("operands", ["bf16", "int8", "float8"])
@pytest.mark.parametrize(("n", "k"), [(1152, 896), (4096, 4096)])
def test_products_of_many_rows_on_the_device(rng: np.random.Generator, operands: str, n: int, k: int) -> None:
    if operands == "float8" and gpu().sm != 90:
        pytest.skip("scales of rows and outputs are sm_90's")
    x, weight = _operands(rng, operands, (500, k)), _operands(rng, operands, (n, k))
    x_scale, weight_scale = np.ones(500, np.float32), np.ones(n, np.float32)
    if operands == "float8":
        x_scale, weight_scale = (rng.random(size).astype(np.float32) + 0.5 for size in (500, n))
    together = _cublaslt(operands, x, weight, x_scale, weight_scale, 500)
    left, right = (_numbers(operands, array) for array in (x, weight))
    exact = left @ right.T * x_scale[:, None].astype(np.float64) * weight_scale
    magnitude = np.abs(left) @ np.abs(right).T * x_scale[:, None] * weight_scale
    assert (np.abs(together - exact) <= (0 if operands == "int8" else 1e-5) * magnitude).all()
    for count in (1, 7, 64, 300):
        part = _cublaslt(operands, x[:count].copy(), weight, x_scale[:count].copy(), weight_scale, 500)
        assert np.array_equal(part, together[:count]), "a row depends on its company"


def _operands(rng: np.random.Generator, operands: str, shape: tuple[int, int]) -> Array:
    if operands == "bf16":
        return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)
    bits = rng.integers(-127, 128, shape).astype(np.int8)
    if operands == "float8":
        bits[(bits & 0x7F) > 0x50] = 0x21  # no NaN, and nothing so large that it hides the rest
    return bits


def _numbers(operands: str, array: Array) -> npt.NDArray[np.float64]:
    return (float8_numbers(array) if operands == "float8" else array).astype(np.float64)


def _cublaslt(operands: str, x: Array, weight: Array, x_scale: Array, weight_scale: Array, most: int) -> Array:
    from inflight.build.gpu_kernels.cublaslt import Product

    y = np.zeros((len(x), len(weight)), np.int32 if operands == "int8" else np.float32)
    arrays = {"x": x, "weight": weight, "y": y, "x_scale": x_scale, "weight_scale": weight_scale}
    arrays["workspace"] = np.zeros(32 << 20, np.int8)
    copies = {name: gpu().upload(array) for name, array in arrays.items()}
    try:
        with Product(len(weight), x.shape[1], operands, most) as product:
            addresses = {name: copy.address for name, copy in copies.items()}
            product(**addresses, rows=len(x), stream=gpu().stream)
            copies["y"].read(y)
            gpu().wait()
    finally:
        for copy in copies.values():
            gpu().release(copy)
    return y
