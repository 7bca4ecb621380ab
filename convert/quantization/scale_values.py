"""Scales of 8-bit floats must be numbers above zero: anything else comes from a writer's mistake, and ends in NaN."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.layout import module_path, quantization_of, stage_tensors
from inflight.errors import CheckpointError

_SHOWN = 20


def check_scales(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError naming the scales of a checkpoint of one rank that cannot be; integers have no such rule,
    since a row of zeros has scale 0.
    """
    problems = [text for name in _scale_names(checkpoint) if (text := _problem(checkpoint, name)) is not None]
    if problems:
        listed = "\n".join(problems[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise CheckpointError(
            f"{checkpoint.directory} has scales that are no numbers above zero:\n{listed}{more}",
            "The checkpoint is broken: quantize the model again.",
        )


def _scale_names(checkpoint: Checkpoint) -> Iterator[str]:
    for spec in stage_tensors(checkpoint.config, checkpoint.spec, 0):
        quantization = quantization_of(spec, checkpoint.config)
        if quantization is not None and quantization.scheme.weights.dtype == "float8_e4m3fn":
            module = module_path(spec.name)
            names = (quantization.scale_name(module), quantization.row_scale_name(module))
            yield from (name for name in names if name is not None)


def _problem(checkpoint: Checkpoint, name: str) -> str | None:
    scales = checkpoint.array(name)
    wrong = ~(np.isfinite(scales) & (scales > 0))
    return f"  {name} holds {scales[wrong][0]}" if wrong.any() else None
