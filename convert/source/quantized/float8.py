"""8-bit floats as `fp8` and `fbgemm_fp8` store them: a scale for each block of 128 x 128, each row, or the matrix.

The names are DeepSeek's (`weight_scale_inv`, by which a number is multiplied for all its name) and vLLM's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from inflight.convert.source.quantized.parts import Parts
from inflight.convert.source.quantized.scaled import FLOAT8, scaled_stacks, scaled_tensor
from inflight.convert.source.tensor import SourceTensor

# Scales of activations and of the KV cache, which are the engine's affair.
ACTIVATION_ENDINGS = (
    ".input_scale",
    ".input_scale_ub",
    ".input_zero_point",
    ".input_global_scale",
    ".activation_scale",
    ".output_scale",
    ".k_scale",
    ".v_scale",
    ".kv_scale",
)


def float8_problems(config: Mapping[str, Any]) -> list[str]:
    """What of a quantization_config is not supported."""
    block = config.get("weight_block_size")
    if block is None or _is_block(block):
        return []
    return [f"weight_block_size {block!r} (two positive numbers)"]


def _is_block(block: Any) -> bool:
    return isinstance(block, list) and len(block) == 2 and all(isinstance(size, int) and size > 0 for size in block)


def float8_tensors(config: Mapping[str, Any], parts: Parts) -> Iterator[SourceTensor]:
    """Every weight of an 8-bit float type, and every stack of experts."""
    given = config.get("weight_block_size")
    parts.leave_out(ACTIVATION_ENDINGS)
    for module, weight in parts.weights(FLOAT8):
        plain_name = parts.has(module, "weight_scale")
        block = (given[0], given[1]) if given and not plain_name else None
        name = "weight_scale" if plain_name else "weight_scale_inv"
        found = scaled_tensor(parts, module, "FP8", weight, name, block)
        if found is not None:
            yield found
    yield from scaled_stacks(parts, "FP8", (given[0], given[1]) if given else None)
