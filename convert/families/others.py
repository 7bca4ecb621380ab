"""What the configs of smaller families have beside the common keys."""

from __future__ import annotations

import math
from typing import Any

from inflight.convert.families.config_values import ConfigValues


def granite_keys(values: ConfigValues) -> dict[str, Any]:
    """Granite's four scales; the format has that of queries relative to the usual one, and that of logits inverted."""
    size = values.raw.get("head_dim") or _head_share(values)
    root = math.sqrt(size) if isinstance(size, int) and size > 0 else 1.0
    return {
        "embedding_multiplier": values.number("embedding_multiplier", 1.0),
        "attention_multiplier": _finite(
            values, "attention_multiplier", values.number("attention_multiplier", 1.0) * root
        ),
        "residual_multiplier": values.number("residual_multiplier", 1.0),
        "output_multiplier_scale": _finite(values, "logits_scaling", 1.0 / values.number("logits_scaling", 1.0)),
    }


def smollm3_keys(values: ConfigValues) -> dict[str, Any]:
    """Windows, which no published model has, would follow the layers without rotary embedding."""
    values.refuse("use_sliding_window", "windows of this family are not read")
    return {}


def stablelm_keys(values: ConfigValues) -> dict[str, Any]:
    """Variants that compute otherwise are refused, and so is a head size that transformers does not use."""
    values.refuse("qk_layernorm", "norms of queries and keys that differ from head to head are not known")
    values.refuse("use_parallel_residual", "attention and MLP in parallel are not known")
    size, share = values.raw.get("head_dim"), _head_share(values)
    if size is not None and share is not None and size != share:
        values.problems.append(f"head_dim {size!r} is not supported: transformers takes hidden_size / heads here")
    return {}


def _head_share(values: ConfigValues) -> int | None:
    """hidden_size / num_attention_heads; None where they are no counts, which reading them says."""
    hidden, heads = values.raw.get("hidden_size"), values.raw.get("num_attention_heads")
    return hidden // heads if isinstance(heads, int) and isinstance(hidden, int) and heads > 0 else None


def _finite(values: ConfigValues, key: str, result: float) -> float:
    """What was computed from the value of `key`, unless it is beyond what floats hold."""
    if 0 < result < math.inf:
        return result
    values.problems.append(f"{key} {values.raw[key]!r} is out of range")
    return 1.0
