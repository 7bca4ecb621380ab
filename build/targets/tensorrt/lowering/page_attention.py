"""Attention under a mask becomes inflight.PagedAttention, which finds what a row sees by position and block table."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN
from inflight.build.graph.values import name_of, shape_of
from inflight.build.passes.paged_attention import mask_window
from inflight.build.passes.rewrite import like, nodes_of, number, replace
from inflight.errors import BuildError


def page_attention(graph: ir.Graph) -> None:
    """Every Attention node of the standard network, with its causal or sliding mask.

    Shapes stay the standard network's, and the inputs that a pool of blocks brings stay empty: the lowering has them
    from the network's inputs. Raises BuildError when a mask is neither causal nor sliding.
    """
    positions = next(value for value in graph.inputs if value.name == "positions")
    for attention in nodes_of(graph, "Attention"):
        query, keys, values, mask = attention.inputs[:4]
        window = mask_window(mask, positions)
        if window is None or query is None:
            raise BuildError(f"The mask of {attention.name} is neither causal nor a sliding window.")
        scale = number(attention, "scale", int(shape_of(query)[-1]) ** -0.5)
        (output,) = attention.outputs
        node = ir.node(
            "PagedAttention",
            [query, keys, values, positions, None, None],
            {"scale": scale, "window": window},
            domain=DOMAIN,
            outputs=[like(output)],
            name=name_of(output),
        )
        graph.insert_before(attention, node)
        replace(graph, [output], node.outputs)
