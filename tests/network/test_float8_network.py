"""FP8 checkpoints: the standard network under ONNX Runtime, against transformers with the same 8-bit floats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.errors import BuildError, CheckpointError
from tests.models.float8 import round_to_float8
from tests.models.random_models import random_shape
from tests.network.support import FAMILIES, Case, LinearRunner, make_case, random_chunks, relative_error
from tests.oracles.quantized_transformers import quantize_oracle

pytestmark = pytest.mark.network


@pytest.fixture
def case(tmp_path: Path, rng: np.random.Generator, seed: int) -> Case:
    plain = make_case(tmp_path, random_shape(rng, str(rng.choice(FAMILIES))), seed)
    return replace(plain, checkpoint=round_to_float8(plain.checkpoint.directory, rng))


def test_onnx_runtime_gives_the_logits_of_transformers_with_the_same_numbers(
    case: Case, rng: np.random.Generator
) -> None:
    quantize_oracle(case)
    runner = LinearRunner(case.checkpoint, 64, batch=1)
    onnx.checker.check_model(str(runner.path), full_check=True)
    errors = []
    for _ in range(8):
        tokens = rng.integers(case.checkpoint.config.vocab_size, size=6)
        errors.append(relative_error(runner.run(random_chunks(rng, tokens)), case.expected(tokens.tolist())))
    # A value on the edge between two levels may fall to either side, and its prompt then differs a little.
    assert np.median(errors) < 1e-4 and max(errors) < 5e-2


def test_the_cpu_target_says_what_it_cannot_run(case: Case, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="QuantizeLinear") as caught:
        build_engine(case.checkpoint.directory, tmp_path / "engine", make_recipe(max_seq_len=64))
    assert "--target reference" in str(caught.value)


def test_a_checkpoint_without_a_scale_is_refused_by_its_name(tmp_path: Path, rng: np.random.Generator) -> None:
    plain = make_case(tmp_path, random_shape(rng, "llama"), 1)
    config = plain.checkpoint.directory / "config.json"
    config.write_text(config.read_text().replace('"quant_algo": null', '"quant_algo": "FP8"'))
    with pytest.raises(CheckpointError, match=r"attention\.qkv\.activation_scaling_factor is missing"):
        type(plain.checkpoint).open(plain.checkpoint.directory)
