"""Networks in forms that no Llama has, made of a Llama's: other activations, norms, caps, scales, rotations and masks.

Every form is one function on the graph, so that a test can have any mixture of them, whatever families have today.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from inflight.build.graph.values import dtype_of, name_of, new_value, shape_of
from inflight.build.passes.rewrite import replace

FLOAT = ir.DataType.FLOAT


def nodes_of(graph: ir.Graph, op_type: str) -> list[ir.Node]:
    return [node for node in graph if node.op_type == op_type]


def constant(graph: ir.Graph, name: str, array: npt.ArrayLike) -> ir.Value:
    tensor = ir.tensor(np.asarray(array, np.float32), name=name)
    value = new_value(name, FLOAT, tuple(tensor.shape.numpy()))
    value.const_value = tensor
    graph.register_initializer(value)
    return value


def between(
    graph: ir.Graph, value: ir.Value, name: str, op_type: str, *others: ir.Value, **attributes: object
) -> ir.Value:
    """What `op_type` makes of `value` and `others` goes to all who read `value`."""
    readers = list(value.uses())
    output = new_value(name, dtype_of(value), shape_of(value))
    node = ir.node(op_type, [value, *others], attributes, outputs=[output], name=name)
    graph.insert_after(value.producer(), node)
    for user, index in readers:
        user.replace_input_with(index, output)
    if value.is_graph_output():
        graph.outputs[list(graph.outputs).index(value)] = output
    return output


def without_rotation(graph: ir.Graph, rotations: Sequence[ir.Node]) -> None:
    for node in rotations:
        source = node.inputs[0]
        assert source is not None, f"{node.name} rotates nothing"
        node.outputs[0].replace_all_uses_with(source)
        graph.remove(node, safe=True)


def deltas(graph: ir.Graph) -> list[ir.Value]:
    """What attention and the MLP of every layer add to the residual stream."""
    return [value for value in _results(graph) if name_of(value).endswith((".attention.dense", ".mlp.down"))]


def _results(graph: ir.Graph) -> list[ir.Value]:
    return [value for node in graph for value in node.outputs]


def with_norms_after(graph: ir.Graph, rng: np.random.Generator) -> None:
    """x + RMSNorm(delta)"""
    for value in deltas(graph):
        weight = constant(graph, f"{value.name}.norm.weight", rng.standard_normal(int(shape_of(value)[-1])))
        between(graph, value, f"{value.name}.norm", "RMSNormalization", weight, axis=-1, epsilon=1e-6)


def with_layer_norms(graph: ir.Graph, rng: np.random.Generator) -> None:
    """LayerNormalization in place of every norm of rows, every second one with a bias."""
    norms = [node for node in nodes_of(graph, "RMSNormalization") if len(shape_of(node.outputs[0])) == 3]
    for index, node in enumerate(norms):
        x, weight = node.inputs
        bias = [constant(graph, f"{node.name}.bias", rng.standard_normal(int(shape_of(x)[-1])))] if index % 2 else []
        output = node.outputs[0]
        made = ir.node("LayerNormalization", [x, weight, *bias], {"axis": -1, "epsilon": 1e-5}, name=node.name)
        value = new_value(f"{output.name}.layer", FLOAT, shape_of(output))
        made.outputs[0].name, made.outputs[0].type, made.outputs[0].shape = value.name, value.type, value.shape
        graph.insert_before(node, made)
        output.replace_all_uses_with(made.outputs[0])
        graph.remove(node, safe=True)


def with_residual_scale(graph: ir.Graph, factor: float) -> None:
    for value in deltas(graph):
        between(graph, value, f"{value.name}.scaled", "Mul", constant(graph, f"{value.name}.factor", factor))


def with_embedding_scale(graph: ir.Graph, factor: float) -> None:
    (embedding,) = [value for value in _results(graph) if value.name == "embedding"]
    between(graph, embedding, "embedding.scaled", "Mul", constant(graph, "embedding.scale", factor))


def with_logits(graph: ir.Graph, factor: float, cap: float) -> None:
    """cap tanh(factor logits / cap)"""
    x = between(graph, graph.outputs[0], "logits.scaled", "Mul", constant(graph, "logits.factor", factor))
    limit = constant(graph, "logits.cap", cap)
    x = between(graph, x, "logits.divided", "Div", limit)
    x = between(graph, x, "logits.tanh", "Tanh")
    between(graph, x, "logits.capped", "Mul", limit)


def with_activation(graph: ir.Graph, op_type: str, **attributes: object) -> None:
    for node in nodes_of(graph, "Swish"):
        node.op_type = op_type
        node.attributes.clear()
        for name, value in attributes.items():
            node.attributes.add(ir.convenience.convert_attribute(name, value))


def without_gates(graph: ir.Graph) -> None:
    """down(activation(fc)): the product with `up` is gone, and so is `up`."""
    for node in nodes_of(graph, "Mul"):
        activated = node.inputs[0]
        if activated is not None and name_of(node.outputs[0]).endswith(".mlp.product"):
            replace(graph, node.outputs, [activated])


def with_attention(graph: ir.Graph, scales: Sequence[float], caps: Sequence[float]) -> None:
    for node, scale, cap in zip(nodes_of(graph, "Attention"), scales, caps, strict=True):
        node.attributes.add(ir.AttrFloat32("scale", scale))
        node.attributes.add(ir.AttrFloat32("softcap", cap))


def with_windows(graph: ir.Graph, layers: Sequence[bool], window: int) -> None:
    """A sliding mask beside the causal one, for the layers that are marked."""
    (causal,) = [value for value in _results(graph) if value.name == "mask"]
    keys, rows = causal.producer().inputs
    size = new_value("mask.window", ir.DataType.INT64, ())
    size.const_value = ir.tensor(np.array(window, np.int64), name="mask.window")
    graph.register_initializer(size)
    before = _insert(graph, causal, "mask.before", "Sub", [rows, size], rows)
    recent = _insert(graph, before, "mask.recent", "Greater", [keys, before], causal)
    both = _insert(graph, recent, f"mask.window_{window}", "And", [causal, recent], causal)
    for node, sliding in zip(nodes_of(graph, "Attention"), layers, strict=True):
        if sliding:
            node.replace_input_with(3, both)


def _insert(
    graph: ir.Graph, after: ir.Value, name: str, op_type: str, inputs: Sequence[ir.Value], shaped: ir.Value
) -> ir.Value:
    output = new_value(name, dtype_of(shaped), shape_of(shaped))
    graph.insert_after(after.producer(), ir.node(op_type, inputs, outputs=[output], name=name))
    return output


def with_rotations(graph: ir.Graph, kinds: Sequence[str], rng: np.random.Generator, max_seq_len: int) -> None:
    """For each layer: "whole" as it is, "own" with tables of its own, "part" of a head, or "none"."""
    rotations = nodes_of(graph, "RotaryEmbedding")
    for layer, kind in enumerate(kinds):
        pair = rotations[2 * layer : 2 * layer + 2]
        if kind == "none":
            without_rotation(graph, pair)
        if kind in ("whole", "none"):
            continue
        head_size = int(shape_of(pair[0].outputs[0])[-1])
        size = head_size if kind == "own" else head_size // 4 * 2
        angles = rng.uniform(0, 6, (max_seq_len, size // 2))
        tables = [constant(graph, f"rope_{layer}.{n}", f(angles)) for n, f in (("cos", np.cos), ("sin", np.sin))]
        for node in pair:
            for index, table in enumerate(tables, start=1):
                node.replace_input_with(index, table)
            if kind == "part":
                node.attributes.add(ir.AttrInt64("rotary_embedding_dim", size))


def random_form(graph: ir.Graph, rng: np.random.Generator, max_seq_len: int) -> list[str]:
    """Any mixture of all of them, in a network of whatever layers; what was drawn."""
    layers = len(nodes_of(graph, "Attention"))
    windows = [bool(x) for x in rng.integers(0, 2, layers)]
    rotations = [str(kind) for kind in rng.choice(["whole", "own", "part", "none"], layers)]
    caps = [float(x) for x in rng.choice([0.0, 5.0, 50.0], layers)]
    activation = [("Swish", {}), ("Gelu", {"approximate": "tanh"}), ("Gelu", {}), ("Relu", {})][rng.integers(4)]
    choices: dict[str, Callable[[], None]] = {
        "gates without": lambda: without_gates(graph),
        "layer norms": lambda: with_layer_norms(graph, rng),
        "residual scale": lambda: with_residual_scale(graph, 0.22),
        "norms after": lambda: with_norms_after(graph, rng),
        "embedding scale": lambda: with_embedding_scale(graph, 12.0),
        "logits": lambda: with_logits(graph, 0.6, float(rng.choice([3.0, 30.0]))),
        f"windows {windows}": lambda: with_windows(graph, windows, int(rng.integers(1, 20))),
        f"caps {caps}": lambda: with_attention(graph, [float(x) for x in rng.uniform(0.1, 0.5, layers)], caps),
        f"rotations {rotations}": lambda: with_rotations(graph, rotations, rng, max_seq_len),
        f"activation {activation}": lambda: with_activation(graph, activation[0], **activation[1]),
    }
    drawn = [name for name in choices if rng.random() < 0.6]
    for name in drawn:
        choices[name]()
    return drawn
