"""A mask and the products that disentangled attention adds to scores (He et al., 2021), as one: a model-local function,
which passes know by its domain.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.graph.function_body import FunctionBody
from inflight.build.graph.values import new_value
from inflight.build.network.layers import BATCH, BOOL, FLOAT, INT64, OPSET, STEP
from inflight.convert.checkpoint.model_spec import AttentionSpec

DOMAIN = "inflight.network.disentangled"


def disentangled_mask(spec: AttentionSpec, max_seq_len: int) -> ir.Function:
    """mask bool [B, 1, L, P], positions int64 [B, L], q float32 [B, heads, L, D], the cached keys [B, heads, P, D], the
    rows for distances [2 heads, 2 span, D], columns int64 [2 P - 1], of key - query + P - 1 -> float32 [B, heads, L,
    P]: what is added to scores, minus infinity where the mask hides a key.
    """
    assert spec.disentangled is not None
    body, heads, width = FunctionBody(), spec.num_heads, 2 * spec.disentangled.span
    mask = new_value("mask", BOOL, (BATCH, 1, STEP, max_seq_len))
    positions = new_value("positions", INT64, (BATCH, STEP))
    q = new_value("q", FLOAT, (BATCH, heads, STEP, spec.head_size))
    keys = new_value("keys", FLOAT, (BATCH, heads, max_seq_len, spec.head_size))
    stack = new_value("rows", FLOAT, (2 * heads, width, spec.head_size))
    columns = new_value("columns", INT64, (2 * max_seq_len - 1,))
    inputs = [mask, positions, q, keys, stack, columns]
    zero, one, end = (body.constant(number) for number in (0, 1, max_seq_len))
    origins = body.op("Sub", [body.constant(max_seq_len - 1), positions])
    distances = body.op(
        "Add", [body.op("Unsqueeze", [origins, body.constant([2])]), body.op("Range", [zero, end, one])]
    )
    of_pairs = body.op("Unsqueeze", [body.op("Gather", [columns, distances]), body.constant([1])])
    of_heads = body.op("Expand", [of_pairs, body.constant([1, heads, 1, 1])])
    turned = body.op("Transpose", [stack], {"perm": [0, 2, 1]})
    of_queries, of_keys = body.ops("Split", [turned], 2, {"axis": 0, "num_outputs": 2})
    met = body.op("GatherElements", [body.op("MatMul", [q, of_queries]), of_heads], {"axis": -1})
    by_key = body.op("Transpose", [of_heads], {"perm": [0, 1, 3, 2]})
    met_keys = body.op("GatherElements", [body.op("MatMul", [keys, of_keys]), by_key], {"axis": -1})
    total = body.op("Add", [met, body.op("Transpose", [met_keys], {"perm": [0, 1, 3, 2]})])
    added = body.op("Mul", [total, body.constant(spec.scale, np.float32)])
    y = body.op("Where", [mask, added, body.constant(-np.inf, np.float32)])
    graph = ir.Graph(inputs, [y], nodes=body.nodes, opset_imports={"": OPSET}, name="disentangled_mask")
    kind = f"DisentangledMask_{heads}_{spec.head_size}_{width}_{max_seq_len}_{spec.scale!r}"
    return ir.Function(DOMAIN, kind, graph=graph, attributes=[])
