"""The last check of a lowering: reports everything that the cpu target does not support, in one message."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import graph_problems
from inflight.errors import BuildError

_SHOWN = 20


def check_fused(graph: ir.Graph) -> None:
    """Raise BuildError when the graph holds anything but well-formed operators of docs/formats/operators.md."""
    problems = graph_problems(graph)
    if not problems:
        return
    listed = "\n".join(f"  {problem}" for problem in problems[:_SHOWN])
    more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    raise BuildError(
        f"The CPU target cannot run {len(problems)} operators of this network:\n{listed}{more}",
        "Build with --target reference, or add a pass that fuses them (docs/extending/adding_a_pass.md).",
    )
