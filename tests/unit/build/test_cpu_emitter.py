"""The emitter: one function per kernel and shapes, exact literals, and unknown operators all in one message."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.graph.operators import DOMAIN
from inflight.build.graph.values import new_value
from inflight.build.passes.plan_memory import plan_memory
from inflight.build.passes.rewrite import fused
from inflight.build.targets.cpu.emitter import CSource, emit
from inflight.build.targets.cpu.packing.weight_layout import WeightLayout
from inflight.engine_format.manifest import KvCacheFacts, Limits
from inflight.errors import BuildError

pytestmark = pytest.mark.unit

LIMITS = Limits(max_batch_size=2, max_seq_len=64, max_num_tokens=24, max_logit_rows=4)
KV_CACHE = KvCacheFacts(dtype="float32", tokens_per_block=16, bytes_per_block=1024, layout="k-groups")
WIDTH, VOCAB = 24, 40


def _value(name: str, width: int) -> ir.Value:
    return new_value(name, ir.DataType.FLOAT, ("T", width))


def _weight(name: str, *shape: int) -> ir.Value:
    tensor = ir.tensor(np.zeros(shape, np.float32), name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)


def _graph(nodes: list[ir.Node]) -> ir.Graph:
    initializers = {v.name: v for node in nodes for v in node.inputs if v is not None and v.const_value is not None}
    inputs = [new_value("token_ids", ir.DataType.INT32, ("T",))]
    return ir.Graph(
        inputs, nodes[-1].outputs, nodes=nodes, initializers=[*initializers.values()], opset_imports={DOMAIN: 1}
    )


def _emit(nodes: list[ir.Node]) -> CSource:
    graph = _graph(nodes)
    plan_memory(graph, sizes={"T": LIMITS.max_num_tokens, "R": LIMITS.max_logit_rows})
    return emit(graph, WeightLayout(graph), LIMITS, KV_CACHE)


def _chain(epsilon: float, layers: int) -> list[ir.Node]:
    """Embedding, then norm and square product per layer, then a projection to the vocabulary."""
    ids = new_value("token_ids", ir.DataType.INT32, ("T",))
    x = _value("x", WIDTH)
    nodes = [fused("EmbeddingLookup", [ids, _weight("embedding", VOCAB, WIDTH)], [x], {"scale": 1.0})]
    for layer in range(layers):
        y, z = _value(f"y{layer}", WIDTH), _value(f"z{layer}", WIDTH)
        nodes.append(fused("RMSNorm", [x, _weight(f"norm{layer}", WIDTH)], [y], {"epsilon": epsilon}))
        nodes.append(fused("Linear", [y, _weight(f"square{layer}", WIDTH, WIDTH)], [z]))
        x = z
    return [*nodes, fused("Linear", [x, _weight("projection", VOCAB, WIDTH)], [_value("logits", VOCAB)])]


def test_layers_of_one_shape_share_one_function() -> None:
    text = _emit(_chain(1e-5, layers=5)).text
    assert text.count(f"    linear(p, thread, F32, {WIDTH}, {WIDTH},") == 1
    assert text.count(f"    linear(p, thread, F32, {WIDTH}, {VOCAB},") == 1
    assert text.count("    rms_norm(p, thread,") == 1
    assert [f"case {number}:" in text for number in range(13)] == [True] * 12 + [False]


def test_threads_may_come_late_to_products_and_to_sampling_alone() -> None:
    text = _emit(_chain(1e-5, layers=2)).text
    assert "OPEN_OPERATORS[NUM_OPERATORS] = {0, 0, 1, 0, 1, 1, 1};" in text


def test_floats_are_written_exactly(rng: np.random.Generator) -> None:
    epsilon = float(np.float32(rng.uniform(1e-7, 1e-4)))
    assert f"{epsilon.hex()}f" in _emit(_chain(epsilon, layers=1)).text


def test_rows_of_the_step_lie_behind_the_planned_values() -> None:
    source = _emit(_chain(1e-5, layers=1))
    values = dict(line.split()[1:] for line in source.text.splitlines() if line.startswith("#define"))
    positions, sequences = int(values["POSITIONS_OFFSET"]), int(values["SEQUENCES_OFFSET"])
    assert positions % 64 == sequences % 64 == 0
    assert positions + 4 * LIMITS.max_num_tokens <= sequences
    assert sequences + 4 * LIMITS.max_num_tokens <= source.workspace_bytes


def test_every_unknown_operator_is_named_at_once() -> None:
    nodes = _chain(1e-5, layers=1)
    foreign = ir.node("Softmax", [nodes[-1].outputs[0]], outputs=[_value("p", VOCAB)], name="first")
    stranger = ir.node("Mystery", [foreign.outputs[0]], domain=DOMAIN, outputs=[_value("q", VOCAB)], name="second")
    graph = _graph([*nodes, foreign, stranger])
    with pytest.raises(BuildError, match=r"Softmax \(first\), Mystery \(second\)"):
        emit(graph, WeightLayout(graph), LIMITS, KV_CACHE)


def test_a_weight_type_without_a_kernel_is_refused() -> None:
    nodes = _chain(1e-5, layers=1)
    tensor = ir.tensor(np.zeros((VOCAB, WIDTH), np.float64), name="doubles")
    weight = ir.Value(name="doubles", type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    nodes[-1].replace_input_with(1, weight)
    with pytest.raises(BuildError, match="doubles is DOUBLE"):
        WeightLayout(_graph(nodes))
