"""The fused graph, run by the interpreter, against ONNX Runtime on the standard graph and against transformers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from inflight.build.graph.operators import DOMAIN, OPERATORS, graph_problems
from inflight.build.graph.values import name_of, shape_of
from inflight.build.network import build_network
from inflight.build.passes.pipeline import cpu_phases, lower_for_cpu
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.engine_format.manifest import Dtype, Limits
from tests.models.random_models import Shape, random_shape
from tests.network.forms import random_form
from tests.network.paging import PagedBatch, paged_caches, scattered_sequences
from tests.network.support import ALL_FAMILIES, FAMILIES, Floats, LinearRunner, make_case, relative_error
from tests.oracles.fused_graph import Interpreter
from tests.paths import DOCS

pytestmark = pytest.mark.network

MAX_SEQ_LEN = 48
LIMITS = Limits(max_batch_size=4, max_seq_len=MAX_SEQ_LEN, max_num_tokens=24, max_logit_rows=9)


def _lower(
    checkpoint: Checkpoint, kv_dtype: Dtype, tokens_per_block: int = 8, dump_dir: Path | None = None
) -> ir.Model:
    network = build_network(checkpoint, MAX_SEQ_LEN)
    return lower_for_cpu(network, LIMITS, tokens_per_block=tokens_per_block, kv_dtype=kv_dtype, dump_dir=dump_dir)


def _logits_in_random_steps(
    rng: np.random.Generator, model: ir.Model, vocab_size: int, tokens_per_block: int
) -> tuple[list[list[int]], dict[tuple[int, int], Floats]]:
    """Token ids of four sequences, and the logits that random ragged steps gave by (sequence, position)."""
    sequences, blocks = scattered_sequences(rng, vocab_size, 4, MAX_SEQ_LEN, tokens_per_block)
    interpreter, caches = Interpreter(model), paged_caches(model.graph, blocks)
    batch = PagedBatch(rng, sequences, LIMITS.max_num_tokens, LIMITS.max_logit_rows)
    logits: dict[tuple[int, int], Floats] = {}
    for step in batch.steps():
        out = interpreter.run({**step.inputs, **caches})
        logits.update(zip(step.wanted, out, strict=True))
    return [sequence.token_ids.tolist() for sequence in sequences], logits


@pytest.mark.parametrize("number", range(6))
def test_a_network_of_any_form_is_fused_as_it_is_meant(
    number: int, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    """Norms, activations, caps, scales, windows and rotations that no family has in one network."""
    shape = replace(random_shape(rng, str(rng.choice(FAMILIES))), num_layers=3, sliding_window=None)
    case = make_case(tmp_path, shape, seed)
    network = build_network(case.checkpoint, MAX_SEQ_LEN)
    drawn = random_form(network.graph, rng, MAX_SEQ_LEN)
    print(number, drawn)
    model = lower_for_cpu(network, LIMITS, tokens_per_block=8, kv_dtype="float32")
    token_ids, logits = _logits_in_random_steps(rng, model, shape.vocab_size, 8)
    expected = [LinearRunner(case.checkpoint, MAX_SEQ_LEN, network=network).run([np.array(ids)]) for ids in token_ids]
    for (sequence, position), row in logits.items():
        assert relative_error(row, expected[sequence][position]) < 1e-4, drawn


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_fused_graph_equals_the_standard_graph_and_transformers(
    family: str, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    shape, tokens_per_block = random_shape(rng, family), int(rng.choice([4, 8, 16]))
    case = make_case(tmp_path, shape, seed)
    model = _lower(case.checkpoint, "float32", tokens_per_block)
    token_ids, logits = _logits_in_random_steps(rng, model, shape.vocab_size, tokens_per_block)
    expected = [case.expected(tokens) for tokens in token_ids]
    linear = [LinearRunner(case.checkpoint, MAX_SEQ_LEN).run([np.array(tokens)]) for tokens in token_ids]
    assert logits
    for (sequence, position), row in logits.items():
        assert relative_error(row, linear[sequence][position]) < 1e-4, shape
        assert relative_error(row, expected[sequence][position]) < 1e-4, shape


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float16", 2e-2)])
def test_half_precision_weights_and_caches_stay_near_float32(
    dtype: Dtype, tolerance: float, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    shape = random_shape(rng, str(rng.choice(ALL_FAMILIES)))
    case = make_case(tmp_path, shape, seed, getattr(torch, dtype))
    model = _lower(case.checkpoint, dtype)
    token_ids, logits = _logits_in_random_steps(rng, model, shape.vocab_size, 8)
    expected = [case.expected(tokens) for tokens in token_ids]
    for (sequence, position), row in logits.items():
        assert relative_error(row, expected[sequence][position]) < tolerance, shape


def test_products_read_bfloat16_rows_only_for_bfloat16_weights(tmp_path: Path, seed: int) -> None:
    for dtype, expected in ((torch.bfloat16, "BFLOAT16"), (torch.float16, "FLOAT"), (torch.float32, "FLOAT")):
        case = make_case(tmp_path / str(dtype), Shape(), seed, dtype)
        graph = _lower(case.checkpoint, "float32").graph
        products = [node for node in graph if node.op_type in ("Linear", "GatedLinear")]
        assert products and {node.inputs[0].dtype.name for node in products} == {expected}
        assert all(node.inputs[1] is graph.initializers[node.inputs[1].name] for node in products)


def test_interface_and_layout_are_those_of_the_operator_page(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    shape = random_shape(rng, "llama")
    graph = _lower(make_case(tmp_path, shape, seed).checkpoint, "bfloat16").graph
    step_inputs = ["token_ids", "positions", "sequence_of_row", "block_tables", "logit_rows"]
    caches = [f"{kind}_cache.{layer}" for layer in range(shape.num_layers) for kind in ("key", "value")]
    assert [value.name for value in graph.inputs] == step_inputs + caches
    assert [value.name for value in graph.outputs] == ["logits"]
    assert shape_of(graph.outputs[0]) == ("R", shape.vocab_size)
    assert {shape_of(value) for value in graph.inputs[5:]} == {("blocks", shape.num_kv_heads, 8, shape.head_size)}
    assert not graph_problems(graph)
    assert {node.op_type for node in graph} <= set(OPERATORS) and {node.domain for node in graph} == {DOMAIN}
    for node in graph:
        assert node.name == name_of(node.outputs[0])
        for value in node.outputs:
            assert value.dtype is not None and value.shape is not None


def test_every_phase_can_be_dumped_and_read_back(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    case = make_case(tmp_path, random_shape(rng, "qwen3"), seed)
    lowered = _lower(case.checkpoint, "float32", dump_dir=tmp_path / "dump")
    dumps = sorted((tmp_path / "dump").glob("*.onnx"))
    assert dumps[0].name == "01_linear.onnx" and dumps[-1].stem.endswith("plan_memory")
    last = ir.load(dumps[-1]).graph
    assert [node.name for node in last] == [node.name for node in lowered.graph]
    assert last.metadata_props == lowered.graph.metadata_props


def test_lowering_leaves_the_network_alone_and_repeats_itself(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    case = make_case(tmp_path, random_shape(rng, "mistral"), seed)
    network = build_network(case.checkpoint, MAX_SEQ_LEN)
    before = ir.to_proto(network).SerializeToString(deterministic=True)
    first, second = (lower_for_cpu(network, LIMITS, tokens_per_block=8, kv_dtype="float32") for _ in range(2))
    assert ir.to_proto(network).SerializeToString(deterministic=True) == before
    assert ir.to_proto(first).SerializeToString(deterministic=True) == ir.to_proto(second).SerializeToString(
        deterministic=True
    )


def test_the_page_lists_the_passes_in_the_order_in_which_they_run() -> None:
    page = (DOCS / "extending" / "adding_a_pass.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", page.partition("## The passes of the cpu target")[2], re.MULTILINE)
    assert listed == [name for name, _ in cpu_phases(LIMITS, 8, "float32")]
