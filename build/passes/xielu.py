"""The function of xIELU becomes Xielu, whose numbers are read here: they are constants of the compiled code."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.graph.operators import XIELU
from inflight.build.graph.values import array_of
from inflight.build.network.xielu import DOMAIN
from inflight.build.passes.rewrite import fused, like, replace


def fuse_xielu(graph: ir.Graph) -> None:
    for call in [node for node in graph if node.domain == DOMAIN]:
        x, numbers = call.inputs[0], array_of(call.inputs[1])
        if x is None or numbers is None:
            continue
        p, n, beta, epsilon = (float(number) for number in numbers)
        values = (np.logaddexp(p, 0.0), np.logaddexp(n, 0.0) + beta, beta, epsilon)
        attributes = {name: float(np.float32(value)) for name, value in zip(XIELU, values, strict=True)}
        node = fused("Xielu", [x], [like(call.outputs[0])], attributes)
        graph.insert_before(call, node)
        replace(graph, call.outputs, node.outputs)
