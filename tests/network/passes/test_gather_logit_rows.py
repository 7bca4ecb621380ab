"""The gathering of logit rows moves ahead of what treats rows alike."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from inflight.build.graph.values import new_value, shape_of
from inflight.build.passes.gather_logit_rows import gather_logit_rows
from inflight.build.passes.rewrite import fused

pytestmark = pytest.mark.network


@pytest.mark.parametrize("all_rows_are_read", [False, True])
def test_rows_are_quantized_again_where_another_product_reads_all_of_them(all_rows_are_read: bool) -> None:
    """In a parallel block, attention reads every row of a norm and the MLP of the last layer some of them."""
    x, wanted = new_value("x", ir.DataType.FLOAT, ("T", 8)), new_value("logit_rows", ir.DataType.INT32, ("R",))
    levels, scales = new_value("levels", ir.DataType.INT16, ("T", 8)), new_value("scales", ir.DataType.FLOAT, ("T", 1))
    some = [new_value(f"some_{each.name}", each.dtype or ir.DataType.FLOAT, ("R", 8)) for each in (levels, scales)]
    qkv, up = (new_value(name, ir.DataType.FLOAT, (rows, 4)) for name, rows in (("qkv", "T"), ("up", "R")))
    nodes = [
        fused("QuantizeRows", [x], [levels, scales]),
        *(fused("GatherRows", [each, wanted], [own]) for each, own in zip((levels, scales), some, strict=True)),
        fused("QuantizedLinear", some, [up]),
    ]
    if all_rows_are_read:
        nodes.append(fused("QuantizedLinear", [levels, scales], [qkv]))
    outputs = [up, qkv] if all_rows_are_read else [up]
    graph = ir.Graph([x, wanted], outputs, nodes=nodes, opset_imports={"inflight": 1})
    gather_logit_rows(graph)
    kinds = [node.op_type for node in graph]
    assert kinds.count("GatherRows") == 1 and kinds.count("QuantizeRows") == 1 + all_rows_are_read
    product = up.producer()
    assert product is not None
    sources = {value.producer() for value in product.inputs if value is not None}
    (quantized,) = sources
    assert quantized is not None and quantized.op_type == "QuantizeRows"
    gathered = quantized.inputs[0]
    assert gathered is not None and [shape_of(each)[0] for each in (gathered, *quantized.outputs)] == ["R"] * 3
    gather = gathered.producer()
    assert gather is not None and gather.op_type == "GatherRows" and gather.inputs[0] is x
    if all_rows_are_read:
        other = qkv.producer()
        assert other is not None and list(other.inputs) == [levels, scales]
        assert [shape_of(each)[0] for each in (levels, scales)] == ["T", "T"]
