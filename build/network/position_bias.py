"""A mask and what positions add to scores, as one: a model-local function, which passes know by its domain."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.graph.function_body import FunctionBody
from inflight.build.graph.values import new_value
from inflight.build.network.layers import BATCH, BOOL, FLOAT, INT64, OPSET, STEP
from inflight.convert.checkpoint.position_spec import BiasTable

DOMAIN = "inflight.network.position_bias"
# In place of an origin, of tables whose columns are positions of keys.
NO_ORIGIN = -1


def biased_mask(table: BiasTable, max_seq_len: int) -> ir.Function:
    """mask bool [B, 1, L, P], positions int64 [B, L], table float32 [heads, width] -> float32 [B, heads, L, P]: what is
    added to scores, minus infinity where the mask hides a key. Attribute `origin`: that of BiasTable, or -1.
    """
    body, (heads, width) = FunctionBody(), table.values.shape
    mask = new_value("mask", BOOL, (BATCH, 1, STEP, max_seq_len))
    positions = new_value("positions", INT64, (BATCH, STEP))
    values = new_value("table", FLOAT, (heads, width))
    zero, one, end = (body.constant(number) for number in (0, 1, max_seq_len))
    keys = body.op("Range", [zero, end, one])
    if table.origin is None:
        added = body.op("Gather", [values, keys], {"axis": 1})
        added = body.op("Unsqueeze", [added, body.constant([0, 2])])
    else:
        origins = body.op("Sub", [body.constant(table.origin), positions])
        columns = body.op("Add", [body.op("Unsqueeze", [origins, body.constant([2])]), keys])
        # Columns beyond the table are those of keys that the mask hides.
        columns = body.op("Min", [columns, body.constant(width - 1)])
        added = body.op("Transpose", [body.op("Gather", [values, columns], {"axis": 1})], {"perm": [1, 0, 2, 3]})
    y = body.op("Where", [mask, added, body.constant(-np.inf, np.float32)])
    graph = ir.Graph([mask, positions, values], [y], nodes=body.nodes, opset_imports={"": OPSET}, name="biased_mask")
    kind = f"BiasedMask_{heads}_{'by_key' if table.origin is None else table.origin}_{max_seq_len}"
    return ir.Function(DOMAIN, kind, graph=graph, attributes=[ir.Attr("origin", ir.AttributeType.INT, None)])
