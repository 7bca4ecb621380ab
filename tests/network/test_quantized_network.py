"""Quantized models: the standard network under ONNX Runtime, the fused graph, and what their integers mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from inflight.build.graph.operators import graph_problems
from inflight.build.graph.values import shape_of, tensor_of
from inflight.build.network import build_network
from inflight.convert.checkpoint.reference.decoder import hidden_states
from inflight.convert.quantization.schemes import RECIPES
from tests.models.random_models import Shape, random_shape
from tests.models.schemes import quantizing
from tests.network.one_step import LENGTH, LIMITS, SEQUENCES, lowered, one_step
from tests.network.support import (
    ALL_FAMILIES,
    FAMILIES,
    Case,
    Floats,
    LinearRunner,
    exact_rows,
    make_case,
    relative_error,
)

pytestmark = pytest.mark.network

SCHEMES = ("int8_wo", "int8_w8a8", "int4_wo", "int4_w4a8", "nf4", "fp8_rowwise")
A16 = ("int8_wo", "int4_wo", "nf4")
# Rows of 16 bits differ by single levels wherever the last bits of a float32 do; so do rows of 8 bits, rarely and more.
A16_TOLERANCE, A8_SAME, A8_TOLERANCE, MIXED_TOLERANCE = 1e-3, 1e-5, 0.2, 0.05


@pytest.fixture(params=range(2))
def scheme(request: pytest.FixtureRequest, rng: np.random.Generator) -> str:
    """Two draws for each family: all pairs of the two are four hundred models."""
    return str(rng.choice(SCHEMES))


# One draw for each family, where only the graph is looked at.
ONE_DRAW = pytest.mark.parametrize("scheme", [0, pytest.param(1, marks=pytest.mark.slow)], indirect=True)


@pytest.fixture(params=ALL_FAMILIES)
def shape(request: pytest.FixtureRequest, rng: np.random.Generator) -> Shape:
    return random_shape(rng, request.param)


@pytest.fixture
def case(tmp_path: Path, shape: Shape, scheme: str, seed: int, rng: np.random.Generator) -> Case:
    """Odd sizes: widths are no multiples of the group, numbers of outputs are odd."""
    return make_case(tmp_path, shape, seed, **quantizing(scheme, int(rng.choice([32, 64]))))


def quantized_modules(case: Case) -> list[str]:
    """Module paths of the matrices that are stored with scales."""
    names = [name for name in case.checkpoint.tensors if case.checkpoint.scales_of(name) is not None]
    return [name.removesuffix(".weight") for name in names]


def assert_same_arithmetic(scheme: str, found: Floats | Sequence[Floats], expected: Floats | Sequence[Floats]) -> None:
    """Rows [vocab] of independent sequences that were computed by the same integers."""
    errors = [relative_error(*pair) for pair in zip(found, expected, strict=True)]
    if scheme in A16:
        assert max(errors) < A16_TOLERANCE
    else:
        assert max(errors) < A8_TOLERANCE
        assert sum(error < A8_SAME for error in errors) >= 3, errors


def test_the_fused_graph_computes_what_onnx_runtime_computes(
    case: Case, shape: Shape, scheme: str, rng: np.random.Generator
) -> None:
    sequences = rng.integers(0, shape.vocab_size, (SEQUENCES, LENGTH))
    found = one_step(lowered(case.checkpoint), sequences)
    runner = LinearRunner(case.checkpoint, LIMITS.max_seq_len, batch=SEQUENCES)
    onnx.checker.check_model(str(runner.path), full_check=True)
    expected = runner.step(sequences, np.zeros(SEQUENCES, np.int64))[:, -1]
    assert_same_arithmetic(scheme, found, expected)


def test_the_network_means_integers_times_scales(case: Case, shape: Shape, rng: np.random.Generator) -> None:
    tokens = rng.integers(0, shape.vocab_size, 16)
    with exact_rows():
        network = build_network(case.checkpoint, LIMITS.max_seq_len)
    logits = LinearRunner(case.checkpoint, LIMITS.max_seq_len, network=network).run([tokens])
    *_, expected = hidden_states(case.checkpoint, tokens.tolist())
    assert relative_error(logits, expected) < 1e-5


@pytest.mark.parametrize(("scheme", "stored"), [("int8_wo", "INT8"), ("int4_wo", "INT4"), ("nf4", "UINT4")])
@pytest.mark.parametrize("shape", [Shape(vocab_size=257, hidden_size=78), Shape(vocab_size=256)], ids=["odd", "even"])
def test_initializers_are_the_bytes_of_the_checkpoint(
    tmp_path: Path, shape: Shape, scheme: str, stored: str, seed: int
) -> None:
    case = make_case(tmp_path, shape, seed, quantize=scheme, module_schemes=(("lm_head", scheme),))
    network = build_network(case.checkpoint, 16)
    for name, entry in case.checkpoint.tensors.items():
        tensor = network.graph.initializers[name].const_value
        assert isinstance(tensor, ir.ExternalTensor)
        assert (tensor.location, tensor.offset, tensor.length) == (entry.file.name, entry.offset, entry.nbytes)
    assert tensor_of(network.graph.initializers["lm_head.weight"]).dtype.name == stored


@ONE_DRAW
def test_fused_weights_are_out_by_in_whatever_lies_in_the_file(case: Case) -> None:
    graph = lowered(case.checkpoint).graph
    assert not graph_problems(graph)
    for node in graph:
        if node.op_type == "QuantizedLinear":
            weight, scale = node.inputs[2], node.inputs[3]
            assert weight is not None and scale is not None and weight.name is not None
            matrix = case.checkpoint.matrix(weight.name.removesuffix(".weight"))
            assert shape_of(weight) == matrix.shape
            groups = -(-matrix.shape[1] // (node.attributes["group_size"].as_int() or matrix.shape[1]))
            factors = np.repeat(tensor_of(scale).numpy().reshape(-1, groups), -(-matrix.shape[1] // groups), axis=1)
            numbers, codebook = tensor_of(weight).numpy().astype(np.float32), (*node.inputs, None)[7:8]
            if codebook and codebook[0] is not None:
                numbers = tensor_of(codebook[0]).numpy()[numbers.astype(np.int64)]
            if groups == 1:
                np.testing.assert_allclose(numbers * factors, matrix, rtol=1e-6)


@ONE_DRAW
@pytest.mark.parametrize("shape", [*FAMILIES, "ministral", "gemma2", "gemma3", "smollm3"], indirect=True)
def test_norms_quantize_and_products_take_up_what_stands_beside_them(case: Case, shape: Shape) -> None:
    types = [node.op_type for node in lowered(case.checkpoint).graph]
    plain_head = "lm_head" not in quantized_modules(case)
    assert types.count("QuantizedGatedLinear") == shape.num_layers
    assert types.count("QuantizedLinear") == 3 * shape.num_layers + (not plain_head)
    assert types.count("RMSNormQuantize") == 2 * shape.num_layers + (not plain_head)
    # A norm behind a projection (Gemma) adds to the residual stream, which is float32.
    added = 2 * shape.num_layers if shape.family.startswith("gemma") else 0
    assert types.count("RMSNorm") == added + plain_head
    assert types.count("Linear") == plain_head
    assert not {"AddRows", "Add", "GatedLinear"} & set(types)


@ONE_DRAW
def test_the_end_of_the_model_sees_logit_rows_only(case: Case) -> None:
    nodes = list(lowered(case.checkpoint).graph)
    last_attention = max(index for index, node in enumerate(nodes) if node.op_type == "PagedAttention")
    assert {shape_of(node.outputs[0])[0] for node in nodes[last_attention + 1 :]} == {"R"}


@pytest.mark.parametrize("mixture", range(4))
def test_modules_of_all_schemes_side_by_side(tmp_path: Path, mixture: int, rng: np.random.Generator, seed: int) -> None:
    """A scheme for each module, drawn anew; a gate and its partner have one."""
    shape = random_shape(rng, str(rng.choice(ALL_FAMILIES)))
    patterns = (
        "lm_head",
        "*.0.attention.qkv",
        "*.attention.dense",
        "*.0.mlp.proj",
        "*.mlp.proj",
        "*.0.mlp.*",
        "*.layers.*",
    )
    # The vocabulary projection, which nothing calibrates, has no 8-bit floats.
    schemes = tuple((each, str(rng.choice(SCHEMES[:-1] if each == "lm_head" else SCHEMES))) for each in patterns)
    has_groups = any(RECIPES[name].weights.scale == "group" for _, name in schemes)
    grouped = {"group_size": int(rng.choice([32, 64]))} if has_groups else {}
    case = make_case(tmp_path, shape, seed, module_schemes=schemes, **grouped)
    sequences = rng.integers(0, shape.vocab_size, (SEQUENCES, LENGTH))
    found = one_step(lowered(case.checkpoint), sequences)
    runner = LinearRunner(case.checkpoint, LIMITS.max_seq_len, batch=SEQUENCES)
    expected = runner.step(sequences, np.zeros(SEQUENCES, np.int64))[:, -1]
    errors = [relative_error(*pair) for pair in zip(found, expected, strict=True)]
    # Behind rows of 16 bits, whose last bits differ, rows of 8 bits differ in single levels more often than alone.
    assert np.median(errors) < MIXED_TOLERANCE and max(errors) < A8_TOLERANCE, (schemes, errors)


def test_a_plain_projection_beside_quantized_layers_stays_a_linear(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    shape = random_shape(rng, "qwen2")
    case = make_case(tmp_path, shape, seed, quantize="int4_wo", exclude_modules=("lm_head", "*.0.mlp.*"))
    model = lowered(case.checkpoint)
    types = {node.name: node.op_type for node in model.graph}
    assert types["logits"] == "Linear" and "GatedLinear" in types.values()
    sequences = rng.integers(0, shape.vocab_size, (SEQUENCES, LENGTH))
    runner = LinearRunner(case.checkpoint, LIMITS.max_seq_len, batch=SEQUENCES)
    expected = runner.step(sequences, np.zeros(SEQUENCES, np.int64))[:, -1]
    assert relative_error(one_step(model, sequences), expected) < A16_TOLERANCE


@pytest.mark.parametrize("plain", ["attention.qkv", "attention.dense", "mlp.[fg]*", "mlp.proj"])
def test_any_module_may_be_plain_beside_quantized_ones(
    tmp_path: Path, plain: str, rng: np.random.Generator, seed: int
) -> None:
    """Rows of a plain product have its type, whichever product makes them."""
    shape, dtype = (
        random_shape(rng, str(rng.choice(ALL_FAMILIES))),
        getattr(torch, str(rng.choice(["bfloat16", "float32"]))),
    )
    options = {**quantizing(str(rng.choice(SCHEMES)), 32), "exclude_modules": (f"*.{plain}",)}
    assert not graph_problems(lowered(make_case(tmp_path, shape, seed, dtype, **options).checkpoint).graph)
