"""rank0.weights: what the loader maps is what the network reads, in every type and wherever the plan leaves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch
from tests.models.float8 import round_to_float8
from tests.models.random_models import Shape
from tests.models.schemes import quantizing
from tests.network.support import FAMILIES, make_case

pytest.importorskip("tensorrt_rtx", reason="pip install 'inflight-llm[tensorrt-rtx]'")

from tests.network.tensorrt.support import InterpretedNetwork
from tests.oracles.interpreted_executor import InterpretedExecutor

pytestmark = pytest.mark.pipeline

RECIPE = make_recipe(
    target="tensorrt", sm=("89",), weights="inputs", max_batch_size=2, max_num_tokens=32, max_seq_len=64
)


@pytest.mark.parametrize("scheme", [None, "int8_wo", "int8_w8a8", "int4_wo", "fp8"])
def test_an_engine_computes_with_the_very_weights_of_its_checkpoint(
    scheme: str | None, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    shape = Shape(
        family=str(rng.choice(FAMILIES)),
        head_size=32,
        hidden_size=96,
        intermediate_size=160,
        vocab_size=257,
        num_layers=1,
    )
    options = {} if scheme in (None, "fp8") else quantizing(scheme, 32)
    checkpoint = make_case(tmp_path, shape, seed, torch.float16, **options).checkpoint
    if scheme == "fp8":
        checkpoint = round_to_float8(checkpoint.directory, rng)
    build_engine(checkpoint.directory, tmp_path / "engine", RECIPE)
    executor = InterpretedExecutor(tmp_path / "engine", checkpoint, 2)
    network = InterpretedNetwork(checkpoint, 64, 2, ir.DataType.FLOAT16)
    tokens = rng.integers(shape.vocab_size, size=20).tolist()
    batch = StepBatch(
        [
            ScheduledSequence(
                0, tokens, 0, (1,), RowSampling(), sample_last=True, prompt_targets=tokens[1:], prompt_num_logprobs=0
            )
        ]
    )
    _, logits = executor.execute_with_logits(batch)
    np.testing.assert_array_equal(logits, network.step(batch)[0])
