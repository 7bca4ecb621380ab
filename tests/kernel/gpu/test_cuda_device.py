"""Attention of the cuda target on a GPU, where there is one: against float64, and the same bits in any company."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.gpu_kernels.spec import Variant
from inflight.build.gpu_kernels.variants import attention_variants
from inflight.errors import EngineError
from inflight.runtime.executors.gpu.device import Device
from inflight.runtime.executors.gpu.kernel import choose_generation, runs_on
from tests.kernel.gpu.support.cuda_attention import Batch, Chunk, decode, expected, prefill, random_batch
from tests.kernel.gpu.support.cuda_gpu import gpu, loaded, run_on_gpu

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]
NUMPY = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
STEP = {"fp16": 2.0**-11, "bf16": 2.0**-8}


def named(variant: Variant) -> str:
    return "-".join(str(value) for value in (*variant.types.values(), *variant.constants.values()))


def run_prefill(batch: Batch) -> Array:
    kernel = loaded("paged_prefill", batch.variant)
    return prefill(run_on_gpu, batch, int(kernel.artifact.constants["block_m"]))


def assert_close(result: Array, batch: Batch) -> None:
    step = STEP[batch.variant.types["act"]]
    exact, magnitude = expected(batch)
    error = np.abs(result.astype(np.float64) - exact)
    assert (error <= step * (magnitude + np.abs(exact)) + 1e-4 * magnitude + 2.0**-24).all()


@pytest.fixture
def _needs_gpu() -> None:
    gpu()


@pytest.mark.usefixtures("_needs_gpu")
@pytest.mark.parametrize("variant", attention_variants(decode=True), ids=named)
def test_decode_on_the_device(rng: np.random.Generator, variant: Variant) -> None:
    chunks = [Chunk(length - 1, 1) for length in (1, 256, 257, int(rng.integers(2, 3000)), 5000)]
    has_sinks = bool(rng.integers(2))
    batch = random_batch(rng, variant, chunks, NUMPY[variant.types["act"]], has_sinks=has_sinks)
    together = decode(run_on_gpu, batch)
    assert_close(together, batch)
    alone = [decode(run_on_gpu, batch.take([row]))[0] for row in range(len(chunks))]
    assert np.array_equal(np.stack(alone), together), "a row depends on its company"


@pytest.mark.usefixtures("_needs_gpu")
@pytest.mark.parametrize("variant", attention_variants(decode=False), ids=named)
def test_prefill_on_the_device(rng: np.random.Generator, variant: Variant) -> None:
    chunks = [Chunk(0, 1), Chunk(0, int(rng.integers(2, 700))), Chunk(0, 0), Chunk(1111, 333), Chunk(5, 5)]
    has_sinks = bool(variant.constants["has_sinks"])
    batch = random_batch(rng, variant, chunks, NUMPY[variant.types["act"]], has_sinks=has_sinks)
    together = run_prefill(batch)
    assert_close(together, batch)
    start = chunks[0].length + chunks[1].length
    cut = int(rng.integers(1, 333))
    parts = []
    for begin, end in ((0, cut), (cut, 333)):
        rows = {name: batch.arrays[name][start + begin : start + end] for name in ("q", "positions", "sequence_of_row")}
        chunk = Chunk(1111 + begin, end - begin)
        parts.append(run_prefill(replace(batch, arrays={**batch.arrays, **rows}, chunks=[chunk])))
    assert np.array_equal(np.concatenate(parts), together[start : start + 333]), "a row depends on its chunk"


def test_code_runs_on_its_own_generation() -> None:
    assert runs_on(80, 80) and runs_on(80, 89) and runs_on(86, 89)
    assert not runs_on(89, 86) and not runs_on(80, 90) and not runs_on(90, 100) and not runs_on(100, 120)


def test_an_engine_for_other_generations_names_what_to_build() -> None:
    assert choose_generation([80, 90, 100], 90, "H100") == 90 and choose_generation([80, 86, 90], 89, "L40S") == 86
    with pytest.raises(EngineError, match=r"code for sm_80, sm_100; this GPU \(H100\) is sm_90") as error:
        choose_generation([80, 100], 90, "H100")
    assert error.value.hint == "Build it with --sm 90."


def test_a_machine_without_a_gpu_is_told_so() -> None:
    try:
        Device()
    except EngineError as error:
        assert error.hint and ("NVIDIA GPU" in error.hint or "inflight-llm[cuda]" in error.hint)
    else:
        pytest.skip("this machine has a GPU")
