"""Random mixtures of experts whose matrices are E4M3, as the writers of such models store them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from tests.models.float8 import tensor_file

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
E4M3 = ml_dtypes.float8_e4m3fn
# What shares a scale, and how config.json says so.
KINDS = ("blocks", "rows", "matrix")
_MATRIX = re.compile(r".*\.(\w+_proj|w[123]|wi|wo)\.weight")
_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
# Rows and columns of a block; the first are those of DeepSeek, which are wider than the matrices here.
_BLOCKS = ((128, 128), (48, 32), (16, 64), (64, 16))


def write_float8_model(
    model: Path, rng: np.random.Generator, kind: str, *, stacked: bool = False, block: tuple[int, int] | None = None
) -> dict[str, Floats]:
    """Round the matrices of the plain model in this directory, and those of experts as stacks where that is asked for.
    Returns their numbers by the names of the weights, those of a stack that is made by that of each expert. Stacks that
    are there, [experts, in, out], stay such.
    """
    plain, block = load_file(model / "model.safetensors"), block or _BLOCKS[rng.integers(len(_BLOCKS))]
    tensors: dict[str, Array] = {}
    numbers: dict[str, Floats] = {}
    stacks: dict[str, dict[int, dict[str, Floats]]] = {}
    for name, values in plain.items():
        wide = values.astype(np.float32)
        expert = _EXPERT.fullmatch(name) if stacked else None
        if values.ndim == 3:
            tensors[name], tensors[f"{name}{_SUFFIXES[kind]}"], numbers[name] = _rounded_stack(wide, kind)
        elif expert is not None:
            stacks.setdefault(expert[1], {}).setdefault(int(expert[2]), {})[expert[3]] = wide
        elif _MATRIX.fullmatch(name) and values.ndim == 2:
            levels, scales, numbers[name] = _rounded(wide, kind, block)
            module = name.removesuffix(".weight")
            tensors |= {name: levels, f"{module}.{_scale_name(kind)}": scales}
            if kind == "matrix":
                tensors[f"{module}.input_scale"] = np.array(rng.uniform(0.01, 0.1), np.float32)
        else:
            tensors[name] = values
    for module, experts in stacks.items():
        for name, parts in (("gate_up_proj", ("gate", "up")), ("down_proj", ("down",))):
            stack = np.stack([np.concatenate([experts[e][part] for part in parts]) for e in range(len(experts))])
            found = [_rounded(each, kind, block) for each in stack]
            tensors[f"{module}.{name}"] = np.stack([levels for levels, _, _ in found])
            tensors[f"{module}.{name}{_SUFFIXES[kind]}"] = np.stack([scales for _, scales, _ in found])
            for number, (_, _, made) in enumerate(found):
                for part, rows in zip(parts, np.split(made, len(parts)), strict=True):
                    numbers[f"{module}.{number}.{part}_proj.weight"] = rows
    (model / "model.safetensors").write_bytes(tensor_file(tensors))
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = _config(kind, block)
    (model / "config.json").write_text(json.dumps(config))
    return numbers


def _rounded(matrix: Floats, kind: str, block: tuple[int, int]) -> tuple[Array, Array, Floats]:
    """Levels, scales as they are stored, and the numbers: level times scale, in float32."""
    rows, columns = matrix.shape
    height, width = {"blocks": block, "rows": (1, columns), "matrix": (rows, columns)}[kind]
    grid = -(-rows // height), -(-columns // width)
    greatest = np.zeros(grid, np.float32)
    for place in np.ndindex(*grid):
        part = matrix[place[0] * height : (place[0] + 1) * height, place[1] * width : (place[1] + 1) * width]
        greatest[place] = np.abs(part).max()
    scales = (greatest / 448).astype(ml_dtypes.bfloat16 if kind == "rows" else np.float32)
    spread = np.repeat(np.repeat(scales.astype(np.float32), height, 0), width, 1)[:rows, :columns]
    levels = np.clip(matrix / spread, -448, 448).astype(E4M3)
    return levels, scales.reshape(()) if kind == "matrix" else scales, levels.astype(np.float32) * spread


def _rounded_stack(stack: Floats, kind: str) -> tuple[Array, Array, Floats]:
    """The same of matrices (in, out), with a scale for each output, or for all of them together."""
    greatest = np.abs(stack).max(axis=1, keepdims=True) if kind == "rows" else np.abs(stack).max()
    scales = (greatest / np.float32(448)).astype(ml_dtypes.bfloat16 if kind == "rows" else np.float32)
    levels = np.clip(stack / scales.astype(np.float32), -448, 448).astype(E4M3)
    return levels, np.asarray(scales), levels.astype(np.float32) * scales.astype(np.float32)


def _scale_name(kind: str) -> str:
    return "weight_scale_inv" if kind == "blocks" else "weight_scale"


# Of the scales of a stack, behind its name.
_SUFFIXES = {"blocks": "_scale_inv", "rows": "_scale", "matrix": "_weight_scale"}


def _config(kind: str, block: tuple[int, int]) -> Mapping[str, Any]:
    if kind == "blocks":
        return {"quant_method": "fp8", "weight_block_size": list(block), "activation_scheme": "dynamic"}
    if kind == "matrix":
        return {"quant_method": "modelopt", "quant_algo": "FP8"}
    weights = {"num_bits": 8, "type": "float", "strategy": "channel", "dynamic": False}
    groups = {"group_0": {"weights": weights, "targets": ["Linear"]}}
    return {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups}
