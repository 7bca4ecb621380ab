"""A norm whose rows are read rounded alone rounds them itself: RMSNormQuantize.

Factors by which the rows are multiplied first become a part of the norm's weight. Rows that get another order first are
left to QuantizeRows.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN
from inflight.build.graph.values import name_of, shape_of, tensor_of
from inflight.build.network.stored_tensors import initializer
from inflight.build.passes.rewrite import fused, like, nodes_of, number, only_consumer, replace

_FACTORS, _ORDER = 4, 5


def fuse_norm_quantize(graph: ir.Graph) -> None:
    for norm in nodes_of(graph, "RMSNorm", DOMAIN):
        quantize = only_consumer(norm.outputs[0], "QuantizeRows", DOMAIN)
        if quantize is None or len(norm.inputs) > 2 or len(quantize.inputs) > _ORDER:
            continue
        x, weight = norm.inputs
        if len(quantize.inputs) > _FACTORS:
            weight = _scaled(graph, weight, quantize.inputs[_FACTORS])
        attributes = {"epsilon": number(norm, "epsilon", 0.0), "type": quantize.attributes["type"].as_string()}
        outputs = [like(value) for value in quantize.outputs]
        node = fused("RMSNormQuantize", [x, weight, *quantize.inputs[1:_FACTORS]], outputs, attributes)
        graph.insert_before(norm, node)
        replace(graph, quantize.outputs, node.outputs)


def _scaled(graph: ir.Graph, weight: ir.Value | None, factors: ir.Value | None) -> ir.Value:
    """weight [H] times factors [H], float32."""
    assert weight is not None and factors is not None, "a norm has a weight, and these rows have factors"
    name, one, other = f"{name_of(factors)}.norm", tensor_of(weight), tensor_of(factors)

    def product() -> ir.TensorProtocol:
        return ir.tensor(one.numpy().astype(np.float32) * other.numpy().astype(np.float32), name=name)

    shape = ir.Shape(shape_of(weight))
    value = initializer(name, ir.LazyTensor(product, ir.DataType.FLOAT, shape, name=name))
    graph.register_initializer(value)
    return value
