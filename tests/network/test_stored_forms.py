"""Checkpoints whose numbers come from other tools or from calibration: the standard network under ONNX Runtime and the
fused graph, against transformers with the same numbers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inflight.build.graph.operators import graph_problems
from inflight.build.network import build_network
from inflight.build.targets.tensorrt.precision import check_schemes
from inflight.convert.checkpoint.reference.decoder import hidden_states
from inflight.errors import BuildError
from tests.models.random_models import random_shape
from tests.models.stored_forms import FLOAT_ROWS, FORMS, GROUPS_AND_ZEROS, SCALED_INPUTS, Form, store_as
from tests.network.one_step import LENGTH, LIMITS, SEQUENCES, lowered, one_step
from tests.network.support import ALL_FAMILIES, FAMILIES, Case, LinearRunner, exact_rows, make_case, relative_error
from tests.oracles.quantized_transformers import errors_beside_transformers

pytestmark = pytest.mark.network

# A value on the edge between two levels may fall to either side, and its prompt then differs a little. Rows of 16 bits
# differ by single levels wherever the last bits of a float32 do.
SAME, TOLERANCE = 1e-3, 0.2


@pytest.fixture(params=FORMS, ids=str)
def form(request: pytest.FixtureRequest) -> Form:
    found: Form = request.param
    return found


@pytest.fixture
def case(tmp_path: Path, rng: np.random.Generator, seed: int, form: Form) -> Case:
    plain = make_case(tmp_path, random_shape(rng, str(rng.choice(FAMILIES))), seed)
    return replace(plain, checkpoint=store_as(plain.checkpoint.directory, form, rng))


def assert_close(errors: list[float]) -> None:
    assert np.median(errors) < SAME and max(errors) < TOLERANCE, errors


def test_onnx_runtime_gives_the_logits_of_transformers_with_the_same_numbers(
    case: Case, rng: np.random.Generator
) -> None:
    assert_close(errors_beside_transformers(case, rng, 6))


def test_the_fused_graph_computes_what_onnx_runtime_computes(
    tmp_path: Path, form: Form, rng: np.random.Generator, seed: int
) -> None:
    plain = make_case(tmp_path, random_shape(rng, str(rng.choice(ALL_FAMILIES))), seed)
    checkpoint = store_as(plain.checkpoint.directory, form, rng)
    sequences = rng.integers(0, checkpoint.config.vocab_size, (SEQUENCES, LENGTH))
    found = one_step(lowered(checkpoint), sequences)
    runner = LinearRunner(checkpoint, LIMITS.max_seq_len, batch=SEQUENCES)
    expected = runner.step(sequences, np.zeros(SEQUENCES, np.int64))[:, -1]
    assert_close([relative_error(*pair) for pair in zip(found, expected, strict=True)])


@pytest.mark.parametrize("form", FORMS, ids=str, indirect=True)
def test_the_decoder_in_numpy_reads_the_same_numbers(case: Case, rng: np.random.Generator) -> None:
    tokens = rng.integers(0, case.checkpoint.config.vocab_size, 12)
    *_, expected = hidden_states(case.checkpoint, tokens.tolist())
    with exact_rows():
        network = build_network(case.checkpoint, LIMITS.max_seq_len)
    logits = LinearRunner(case.checkpoint, LIMITS.max_seq_len, network=network).run([tokens])
    assert relative_error(logits, expected) < 1e-5


@pytest.mark.parametrize("form", (*SCALED_INPUTS, *FLOAT_ROWS), ids=str, indirect=True)
def test_factors_are_a_part_of_the_norm_or_of_the_rounding(case: Case, form: Form) -> None:
    graph, layers = lowered(case.checkpoint).graph, case.checkpoint.config.num_hidden_layers
    assert not graph_problems(graph)
    types = [node.op_type for node in graph]
    apart = not form.shared
    assert "Mul" not in types
    assert types.count("QuantizedGatedLinear") == (0 if apart else layers)
    assert types.count("Gate") == (layers if apart else 0)
    assert types.count("RMSNormQuantize") == (1 if apart else 2) * layers
    assert types.count("QuantizeRows") == (4 if apart else 2) * layers


@pytest.mark.parametrize("form", (*GROUPS_AND_ZEROS, FLOAT_ROWS[0]), ids=str, indirect=True)
def test_a_gpu_refuses_what_it_has_no_product_for(case: Case) -> None:
    what = "int8 weights with a scale per group|zero points|int4 weights with rows of 8-bit floats"
    with pytest.raises(BuildError, match=f"no lowering for .*({what})"):
        check_schemes(case.checkpoint)
