"""Scales of 8-bit floats and of rows must be numbers above zero, and factors of inputs numbers: anything else comes
from a writer's mistake, and ends in NaN.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.layout import module_path, quantization_of, stage_tensors
from inflight.errors import CheckpointError

_SHOWN = 20


def check_scales(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError naming the scales of a checkpoint of one rank that cannot be, and orders of inputs that are
    none. Scales of integer weights may be zero, as that of a row of zeros is, or negative.
    """
    problems = [text for name, positive in _scales(checkpoint) if (text := _problem(checkpoint, name, positive))]
    problems += [
        f"  {name} is no order of its inputs" for name in _orders(checkpoint) if not _is_order(checkpoint, name)
    ]
    if problems:
        listed = "\n".join(problems[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise CheckpointError(
            f"{checkpoint.directory} has scales that are no numbers, or not above zero:\n{listed}{more}",
            "The checkpoint is broken: quantize the model again.",
        )


def _scales(checkpoint: Checkpoint) -> Iterator[tuple[str, bool]]:
    """Names of tensors, and whether their values must be above zero."""
    for spec in stage_tensors(checkpoint.config, checkpoint.spec, 0):
        quantization = quantization_of(spec, checkpoint.config)
        if quantization is not None:
            module = module_path(spec.name)
            # Where the rows are no 8-bit floats, the scales are those of a source, and a block of zeros may have 0.
            floats = quantization.scheme.weights.dtype == quantization.activations == "float8_e4m3fn"
            yield quantization.scale_name(module), floats
            further = (quantization.row_scale_name(module), True), (quantization.factors_name(module), False)
            for name, positive in (*further, (quantization.zero_name(module), False)):
                if name is not None:
                    yield name, positive


def _orders(checkpoint: Checkpoint) -> Iterator[str]:
    for spec in stage_tensors(checkpoint.config, checkpoint.spec, 0):
        quantization = quantization_of(spec, checkpoint.config)
        name = None if quantization is None else quantization.order_name(module_path(spec.name))
        if name is not None:
            yield name


def _is_order(checkpoint: Checkpoint, name: str) -> bool:
    order = checkpoint.array(name)
    return np.array_equal(np.sort(order), np.arange(len(order)))


def _problem(checkpoint: Checkpoint, name: str, positive: bool) -> str | None:
    values = checkpoint.array(name).astype(np.float32)
    wrong = ~np.isfinite(values) | (positive & (values <= 0))
    return f"  {name} holds {values[wrong][0]}" if wrong.any() else None
