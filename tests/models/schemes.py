"""Options of a conversion that quantizes."""

from __future__ import annotations

from typing import Any

from inflight.convert.quantization.schemes import RECIPES


def quantizing(scheme: str | None, group_size: int) -> dict[str, Any]:
    """Options of `scheme`, with groups of that size where it has groups: elsewhere the option is refused."""
    grouped = scheme is not None and RECIPES[scheme].weights.scale == "group"
    return {"quantize": scheme, **({"group_size": group_size} if grouped else {})}
