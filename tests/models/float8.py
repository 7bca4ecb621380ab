"""A hand-made FP8 checkpoint: a plain one whose matrices are rounded to E4M3, as the documented format stores them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.directory import CONFIG_NAME, Checkpoint
from inflight.convert.quantization.scheme import DEFAULT_EXCLUDED, WeightQuantization
from inflight.tensor_file import encode_header, map_array

GREATEST = 448.0


def round_to_float8(directory: Path, rng: np.random.Generator) -> Checkpoint:
    """Rewrite the plain checkpoint in `directory`; scales of rows are random, and small enough to cut some rows off."""
    plain = Checkpoint.open(directory)
    rule = WeightQuantization(8, 0, "float8_e4m3fn", DEFAULT_EXCLUDED)
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, entry in plain.tensors.items():
        module = name.removesuffix(".weight")
        values = np.array(map_array(entry))
        if not name.endswith(".weight") or values.ndim != 2 or not rule.covers(module):
            tensors[name] = values
            continue
        wide = values.astype(np.float32)
        scale = np.abs(wide).max() / np.float32(GREATEST)
        tensors[name] = (wide / scale).astype(ml_dtypes.float8_e4m3fn)
        tensors[f"{module}.weights_scaling_factor"] = np.array([scale], np.float32)
        tensors[f"{module}.activation_scaling_factor"] = rng.uniform(0.005, 0.02, 1).astype(np.float32)
    header = encode_header({name: (array.dtype.name, array.shape) for name, array in tensors.items()})
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in tensors.values())
    (directory / "rank0.safetensors").write_bytes(header + data)
    config = json.loads((directory / CONFIG_NAME).read_text())
    config["quantization"]["quant_algo"] = "FP8"
    (directory / CONFIG_NAME).write_text(json.dumps(config))
    return Checkpoint.open(directory)
