"""Hand-made FP8 checkpoints: a plain one whose matrices are rounded to E4M3, as other writers store them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.directory import CONFIG_NAME, Checkpoint
from inflight.convert.quantization.modules import ModuleQuantization
from inflight.files.tensor_file import encode_header, map_array

GREATEST = 448.0
ALGORITHMS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN")
Array = npt.NDArray[Any]


def round_to_float8(
    directory: Path,
    rng: np.random.Generator,
    algorithm: str = "FP8",
    clamp: tuple[float, float] | None = None,
    *,
    shared: bool = False,
) -> Checkpoint:
    """Rewrite the plain checkpoint in `directory`.

    FP8: a scale for each matrix, and a random one for its rows, small enough to cut some off; `shared`: the rows of
    gate and up have the same. FP8_PER_CHANNEL_PER_TOKEN: a scale for each output, rows cut to `clamp`.
    """
    plain = Checkpoint.open(directory)
    block = {"quant_algo": algorithm, **({"clamp_val": clamp} if clamp else {})}
    rule = ModuleQuantization(plain.config.quantization.model_copy(update=block), {})
    tensors: dict[str, Array] = {}
    for name, entry in plain.tensors.items():
        module = name.removesuffix(".weight")
        values = np.array(map_array(entry))
        if not name.endswith(".weight") or values.ndim != 2 or rule.of(module) is None:
            tensors[name] = values
        elif algorithm == "FP8":
            tensors.update(_per_matrix(module, values.astype(np.float32), rng))
        else:
            tensors.update(_per_output(module, values.astype(np.float32)))
    if shared:
        for name in [name for name in tensors if name.endswith("mlp.gate.activation_scaling_factor")]:
            tensors[name] = tensors[name.replace("mlp.gate", "mlp.fc")]
    write_tensors(directory, tensors)
    config = json.loads((directory / CONFIG_NAME).read_text())
    config["quantization"].update(block)
    (directory / CONFIG_NAME).write_text(json.dumps(config))
    return Checkpoint.open(directory)


def _per_matrix(module: str, weight: npt.NDArray[np.float32], rng: np.random.Generator) -> dict[str, Array]:
    scale = np.abs(weight).max() / np.float32(GREATEST)
    return {
        f"{module}.weight": (weight / scale).astype(ml_dtypes.float8_e4m3fn),
        f"{module}.weights_scaling_factor": np.array([scale], np.float32),
        f"{module}.activation_scaling_factor": rng.uniform(0.005, 0.02, 1).astype(np.float32),
    }


def _per_output(module: str, weight: npt.NDArray[np.float32]) -> dict[str, Array]:
    scales = np.maximum(np.abs(weight).max(axis=1) / np.float32(GREATEST), np.float32(1 / (448 * 512)))
    return {
        f"{module}.weight": (weight / scales[:, None]).astype(ml_dtypes.float8_e4m3fn),
        f"{module}.per_channel_scale": scales,
    }


def write_tensors(directory: Path, tensors: dict[str, Array]) -> None:
    """The rank file of a checkpoint of one rank."""
    (directory / "rank0.safetensors").write_bytes(tensor_file(tensors))


def tensor_file(tensors: dict[str, Array]) -> bytes:
    """A safetensors file: the package has no NumPy type for 8-bit floats."""
    header = encode_header({name: (array.dtype.name, array.shape) for name, array in tensors.items()})
    return header + b"".join(np.ascontiguousarray(array).tobytes() for array in tensors.values())
