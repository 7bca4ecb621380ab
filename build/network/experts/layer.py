"""The MLP of a layer with experts."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import shape_of
from inflight.build.network.experts.body import function_graph
from inflight.build.network.layers import FLOAT, Layers
from inflight.convert.checkpoint.model_spec import ExpertsSpec, MlpSpec
from inflight.convert.quantization.schemes import RowDtype

# Of the functions, one for each kind of mixture. Their attributes say what the body computes; `rows`: to what those
# inside an expert are rounded.
DOMAIN = "inflight.network"
_ATTRIBUTES = {
    "top_k": ir.AttributeType.INT,
    "routing": ir.AttributeType.STRING,
    "epsilon": ir.AttributeType.FLOAT,
    "scale": ir.AttributeType.FLOAT,
    "groups": ir.AttributeType.INT,
    "top_groups": ir.AttributeType.INT,
    "activation": ir.AttributeType.STRING,
    "rows": ir.AttributeType.STRING,
}


class ExpertsLayer:
    """Router and experts of one layer, and the expert that all tokens share."""

    def __init__(self, builder: GraphBuilder, layers: Layers) -> None:
        self._builder = builder
        self._layers = layers

    def __call__(self, x: ir.Value, spec: ExpertsSpec, source: str, name: str) -> ir.Value:
        """x [B, L, hidden] -> [B, L, hidden]; `source` and `name` are those of the layer."""
        source, name = f"{source}.mlp", f"{name}.mlp"
        weights, logits = self._layers.weights, self._layers.linear(x, f"{source}.router", f"{name}.router")
        stacks = [weights.stack(f"{source}.{stack}", f"{name}.{stack}.weight") for stack in ("fc", "proj")]
        rows = weights.rounded_rows(x, f"{source}.fc", f"{name}.fc")
        if spec.bias:
            stacks += [weights.float32(f"{source}.{stack}.bias") for stack in ("fc", "proj")]
        if spec.biased_choice:
            stacks.append(weights.float32(f"{source}.router.e_score_correction_bias"))
        called = name if spec.shared is None else f"{name}.experts"
        inner = weights.rows_of(f"{source}.proj")
        function, facts = self._function(spec, inner), {**_facts(spec), "rows": inner or ""}
        mixed = self._builder.call(function, [rows, logits, *stacks], called, FLOAT, shape_of(x), facts)
        if spec.shared is None:
            return mixed
        return self._builder.op("Add", [mixed, self._shared(x, spec, source, name)], name, FLOAT, shape_of(x))

    def _shared(self, x: ir.Value, spec: ExpertsSpec, source: str, name: str) -> ir.Value:
        assert spec.shared is not None and spec.activation != "clamped_swiglu"
        mlp = MlpSpec(spec.shared.size, spec.activation)
        found = self._layers.mlp(x, mlp, source, name, "shared_expert")
        if not spec.shared.gated:
            return found
        logit = self._layers.linear(x, f"{source}.shared_expert_gate", f"{name}.shared_gate.logit")
        gate = self._builder.op("Sigmoid", [logit], f"{name}.shared_gate", FLOAT, shape_of(logit))
        return self._builder.op("Mul", [found, gate], f"{name}.shared", FLOAT, shape_of(x))

    def _function(self, spec: ExpertsSpec, inner: RowDtype | None) -> ir.Function:
        epsilon = f"_{spec.epsilon:g}_{spec.scale:g}" if spec.epsilon or spec.scale != 1.0 else ""
        rows = "" if inner is None else f"_{inner}"
        groups = f"_{spec.top_groups}_of_{spec.groups}_groups" if spec.groups > 1 else ""
        sizes = f"{spec.top_k}_of_{spec.count}_{spec.size}{groups}"
        kind = f"Experts_{sizes}_{spec.routing}{epsilon}_{spec.activation}{rows}{'_bias' if spec.bias else ''}"
        attributes = [ir.Attr(name, of_type, None) for name, of_type in _ATTRIBUTES.items()]
        return ir.Function(DOMAIN, kind, graph=function_graph(spec, inner), attributes=attributes)


def _facts(spec: ExpertsSpec) -> dict[str, int | float | str]:
    return {
        "top_k": spec.top_k,
        "routing": spec.routing,
        "epsilon": spec.epsilon,
        "scale": spec.scale,
        "groups": spec.groups,
        "top_groups": spec.top_groups,
        "activation": spec.activation,
    }
