"""The quantized matrices of a checkpoint under their Hugging Face names, as float32: what they mean to transformers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint import Checkpoint
from inflight.convert.families import FAMILIES
from inflight.convert.layout import module_path, quantization_of, stage_tensors


def dequantized_weights(checkpoint: Checkpoint) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """(Hugging Face module, weight float32 [out, in]) of every quantized matrix of a checkpoint of one rank.

    attention.qkv comes as its three parts. The projection of a tied model is one of its own here.
    """
    family = next(family for family in FAMILIES if family.architecture == checkpoint.config.architecture)
    for spec in stage_tensors(checkpoint.config, checkpoint.traits, 0):
        if quantization_of(spec, checkpoint.config) is None:
            continue
        parts = np.split(checkpoint.matrix(module_path(spec.name)), np.cumsum(spec.parts)[:-1])
        for name, part in zip(family.names[spec.module], parts, strict=True):
            yield name.format(layer=spec.layer), part
