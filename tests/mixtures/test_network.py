"""The network of a mixture of experts and the fused graph, against transformers; and what other targets say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from inflight.build.engine import plan_engine
from inflight.build.network import build_network
from inflight.build.passes.pipeline import lower_for_cpu
from inflight.build.registry import make_recipe
from inflight.convert.checkpoint.model_spec import ExpertsSpec
from inflight.engine_format.manifest import Limits
from inflight.errors import BuildError
from tests.mixtures.facts import parameters_by_hand
from tests.models.families.mixtures import MIXTURES
from tests.models.random_models import random_shape
from tests.network.paging import PagedBatch, paged_caches, scattered_sequences
from tests.network.support import LinearRunner, make_case, random_chunks, relative_error
from tests.oracles.fused_graph import Interpreter

pytestmark = pytest.mark.network

MAX_SEQ_LEN = 48
LIMITS = Limits(max_batch_size=4, max_seq_len=MAX_SEQ_LEN, max_num_tokens=24, max_logit_rows=9)


@pytest.mark.parametrize("family", MIXTURES)
def test_the_network_and_the_fused_graph_are_what_transformers_computes(
    family: str, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    shape = random_shape(rng, family)
    case = make_case(tmp_path, shape, seed)
    model = lower_for_cpu(build_network(case.checkpoint, MAX_SEQ_LEN), LIMITS, tokens_per_block=8, kv_dtype="float32")
    sequences, blocks = scattered_sequences(rng, shape.vocab_size, 4, MAX_SEQ_LEN, 8)
    interpreter, caches = Interpreter(model), paged_caches(model.graph, blocks)
    expected = [case.expected(sequence.token_ids) for sequence in sequences]
    for step in PagedBatch(rng, sequences, LIMITS.max_num_tokens, LIMITS.max_logit_rows).steps():
        for (sequence, position), row in zip(step.wanted, interpreter.run({**step.inputs, **caches}), strict=True):
            assert relative_error(row, expected[sequence][position]) < 1e-4, shape
    runner = LinearRunner(case.checkpoint, MAX_SEQ_LEN)
    onnx.checker.check_model(str(runner.path), full_check=True)
    token_ids = sequences[0].token_ids
    assert relative_error(runner.run(random_chunks(rng, token_ids)), expected[0]) < 1e-4, shape


def test_the_plan_says_how_many_parameters_a_token_meets(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    case = make_case(tmp_path, random_shape(rng, str(rng.choice(MIXTURES))), seed)
    plan = plan_engine(case.checkpoint.directory, make_recipe("reference", max_seq_len=MAX_SEQ_LEN))
    total, active = parameters_by_hand(case.oracle)
    assert (plan.model.num_parameters, plan.model.active_parameters) == (total, active)


def test_the_tensorrt_target_refuses_experts_by_name(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    pytest.importorskip("tensorrt_rtx")
    case = make_case(tmp_path, random_shape(rng, "mixtral"), seed)
    assert any(isinstance(layer.mlp, ExpertsSpec) for layer in case.checkpoint.spec.layers)
    with pytest.raises(BuildError, match=r"no lowering for .*Experts"):
        plan_engine(case.checkpoint.directory, make_recipe("tensorrt", max_seq_len=MAX_SEQ_LEN))
