"""xIELU (Huang and Schlag, 2024), an activation with numbers of its own, as a function of standard operators."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import new_value

# Of the function; its inputs are rows x, of any shape, and the four numbers of MlpSpec.
DOMAIN, NAME = "inflight.activation", "Xielu"
_FLOAT, _INT64 = ir.DataType.FLOAT, ir.DataType.INT64


def xielu_function(opset: int) -> ir.Function:
    """Elu(y) is e^y - 1 where y is below 0, and min(x, epsilon) is."""
    nodes: list[ir.Node] = []

    def op(kind: str, *inputs: ir.Value, outputs: int = 1, **attributes: object) -> list[ir.Value]:
        values = [ir.Value(name=f"{kind}_{len(nodes)}.{index}") for index in range(outputs)]
        nodes.append(ir.node(kind, inputs, attributes or None, outputs=values, name=f"{kind}_{len(nodes)}"))
        return values

    x, numbers = new_value("x", _FLOAT, ("batch", "step", "size")), new_value("numbers", _FLOAT, (4,))
    p, n, beta, epsilon = op("Split", numbers, outputs=4, axis=0, num_outputs=4)
    (positive,), (negative,) = op("Softplus", p), op("Softplus", n)
    (slope,) = op("Add", negative, beta)
    (below,) = op("Min", x, epsilon)
    (power,) = op("Elu", below)
    (bent,) = op("Sub", power, x)
    (left,) = op("Mul", bent, slope)
    (square,) = op("Mul", x, x)
    (right,) = op("Mul", square, positive)
    (zero,) = op("Sub", beta, beta)
    (above,) = op("Greater", x, zero)
    (chosen,) = op("Where", above, right, left)
    (line,) = op("Mul", x, beta)
    (y,) = op("Add", chosen, line)
    graph = ir.Graph([x, numbers], [y], nodes=nodes, opset_imports={"": opset}, name="xielu")
    return ir.Function(DOMAIN, NAME, graph=graph, attributes=[])
