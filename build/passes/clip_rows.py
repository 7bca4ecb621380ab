"""Clip of rows to two constants becomes ClipRows: of queries, keys and values (OLMo)."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import array_of, shape_of
from inflight.build.passes.rewrite import fused, like, nodes_of, replace


def fuse_clip_rows(graph: ir.Graph) -> None:
    for clip in nodes_of(graph, "Clip"):
        x, *limits = clip.inputs
        numbers = [array_of(limit) for limit in limits if limit is not None]
        if x is None or len(shape_of(x)) != 3 or len(numbers) != 2:
            continue
        low, high = numbers
        if low is None or high is None or low.size != 1 or high.size != 1:
            continue
        attributes = {"low": float(low.reshape(())), "high": float(high.reshape(()))}
        node = fused("ClipRows", [x], [like(clip.outputs[0])], attributes)
        graph.insert_before(clip, node)
        replace(graph, clip.outputs, node.outputs)
