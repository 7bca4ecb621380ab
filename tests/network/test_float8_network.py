"""FP8 checkpoints: the standard network under ONNX Runtime and the fused graph, against transformers with the same
8-bit floats.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from inflight.build.graph.operators import graph_problems
from inflight.build.graph.values import shape_of, tensor_of
from inflight.errors import CheckpointError
from tests.models.float8 import round_to_float8
from tests.models.random_models import random_shape
from tests.network.one_step import LENGTH, LIMITS, SEQUENCES, lowered, one_step
from tests.network.support import FAMILIES, Case, LinearRunner, make_case, relative_error
from tests.oracles.quantized_transformers import errors_beside_transformers

pytestmark = pytest.mark.network

# A value on the edge between two levels may fall to either side, and its prompt then differs a little.
SAME, TOLERANCE = 1e-5, 0.2


@dataclass(frozen=True)
class Writer:
    """What others write: the algorithm, the range of rows, whether the rows of gate and up share a scale."""

    algorithm: str
    clamp: tuple[float, float] | None = None
    shared: bool = False


WRITERS = (
    Writer("FP8"),
    Writer("FP8", shared=True),
    Writer("FP8_PER_CHANNEL_PER_TOKEN"),
    Writer("FP8_PER_CHANNEL_PER_TOKEN", clamp=(-1.25, 1.0)),
)


@pytest.fixture(params=WRITERS, ids=lambda writer: f"{writer.algorithm}-{writer.clamp}-{writer.shared}")
def writer(request: pytest.FixtureRequest) -> Writer:
    found: Writer = request.param
    return found


@pytest.fixture
def case(tmp_path: Path, rng: np.random.Generator, seed: int, writer: Writer) -> Case:
    plain = make_case(tmp_path, random_shape(rng, str(rng.choice(FAMILIES))), seed)
    directory = plain.checkpoint.directory
    return replace(
        plain,
        checkpoint=round_to_float8(directory, rng, writer.algorithm, writer.clamp, shared=writer.shared),
    )


def test_onnx_runtime_gives_the_logits_of_transformers_with_the_same_numbers(
    case: Case, rng: np.random.Generator
) -> None:
    errors = errors_beside_transformers(case, rng, 8)
    assert np.median(errors) < SAME and max(errors) < TOLERANCE, errors


def test_the_fused_graph_computes_what_onnx_runtime_computes(case: Case, rng: np.random.Generator) -> None:
    sequences = rng.integers(0, case.checkpoint.config.vocab_size, (SEQUENCES, LENGTH))
    found = one_step(lowered(case.checkpoint), sequences)
    runner = LinearRunner(case.checkpoint, LIMITS.max_seq_len, batch=SEQUENCES)
    expected = runner.step(sequences, np.zeros(SEQUENCES, np.int64))[:, -1]
    errors = [relative_error(*pair) for pair in zip(found, expected, strict=True)]
    assert np.median(errors) < SAME and max(errors) < TOLERANCE, errors


def test_rows_of_gate_and_up_are_rounded_once_where_they_share_a_scale(case: Case, writer: Writer) -> None:
    graph, layers = lowered(case.checkpoint).graph, case.checkpoint.config.num_hidden_layers
    assert not graph_problems(graph)
    types = [node.op_type for node in graph]
    apart = writer.algorithm == "FP8" and not writer.shared
    assert types.count("Gate") == (layers if apart else 0)
    assert types.count("QuantizedGatedLinear") == (0 if apart else layers)
    assert types.count("QuantizedLinear") == (5 if apart else 3) * layers
    # The input norm's rows meet one product; those of the MLP's norm one, or two that round them apart.
    assert types.count("RMSNormQuantize") == (1 if apart else 2) * layers
    assert types.count("QuantizeRows") == (4 if apart else 2) * layers
    last_attention = max(index for index, name in enumerate(types) if name == "PagedAttention")
    assert {shape_of(node.outputs[0])[0] for node in list(graph)[last_attention + 1 :]} == {"R"}


def test_fused_weights_are_the_bytes_of_the_checkpoint(case: Case) -> None:
    for node in lowered(case.checkpoint).graph:
        if node.op_type != "QuantizedLinear":
            continue
        weight, scale = node.inputs[2], node.inputs[3]
        assert weight is not None and weight.name is not None and scale is not None and scale.name is not None
        for value in (weight, scale):
            stored = case.checkpoint.array(str(value.name))
            assert shape_of(value) == stored.shape
            assert tensor_of(value).tobytes() == stored.tobytes()


def test_a_checkpoint_without_a_scale_is_refused_by_its_name(tmp_path: Path, rng: np.random.Generator) -> None:
    plain = make_case(tmp_path, random_shape(rng, "llama"), 1)
    config = plain.checkpoint.directory / "config.json"
    config.write_text(config.read_text().replace('"quant_algo": null', '"quant_algo": "FP8"'))
    with pytest.raises(CheckpointError, match=r"attention\.qkv\.activation_scaling_factor is missing"):
        type(plain.checkpoint).open(plain.checkpoint.directory)
