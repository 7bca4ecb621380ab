"""Packs integers as GPTQ, AWQ, compressed-tensors and ModelOpt store them, from the descriptions of the formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tests.paths import ROOT

Array = npt.NDArray[Any]
# Models that the tools of their formats quantized: see quantized/README.md.
FIXTURES = sorted(path.parent for path in (ROOT / "tests" / "models" / "quantized").glob("*/*/expected.json"))
IDS = [f"{path.parent.name}-{path.name}" for path in FIXTURES]
# One model as ModelOpt exports it for TensorRT-LLM, in every way that it can without a GPU, and the plain model.
EXPORTS = ROOT / "tests" / "models" / "quantized" / "tensorrt_llm"
EXPORT_NAMES = sorted(path.parent.name for path in EXPORTS.glob("*/tp1"))
EXPORTED_MODEL = EXPORTS / "source"
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


class Matrix(NamedTuple):
    """Integers [out, in] 0 .. 2^bits - 1, zero points and scales [out, groups], and the group of each input."""

    levels: Array
    zeros: Array
    scales: Array
    groups: Array
    bits: int

    @property
    def numbers(self) -> Array:
        """(level - zero) * scale, each product rounded once to the type of the scales."""
        difference = self.levels.astype(np.int64) - self.zeros[:, self.groups]
        wide = difference.astype(np.float64) * self.scales.astype(np.float64)[:, self.groups]
        rounded: Array = wide.astype(np.float32).astype(self.scales.dtype)
        return rounded


def random_matrix(
    rng: np.random.Generator, rows: int, width: int, bits: int, size: int, *, ordered: bool, symmetric: bool
) -> Matrix:
    """`size` 0: one group. Not `ordered`: inputs belong to groups in any order."""
    count = 1 if not size else -(-width // size)
    groups = np.arange(width) // (size or width)
    if not ordered:
        rng.shuffle(groups)
    zeros = np.full((rows, count), 1 << (bits - 1)) if symmetric else rng.integers(0, 1 << bits, (rows, count))
    dtype = (np.float16, ml_dtypes.bfloat16, np.float32)[rng.integers(3)]
    scales = rng.uniform(1e-3, 1e-1, (rows, count)).astype(np.float32).astype(dtype)
    return Matrix(rng.integers(0, 1 << bits, (rows, width)), zeros, scales, groups, bits)


def packed(numbers: Array, bits: int) -> Array:
    """Unsigned numbers along the last axis into int32 words, the first in the lowest bits."""
    each = 32 // bits
    padded = np.pad(numbers, ((0, 0), (0, -numbers.shape[1] % each)))
    words = np.zeros((padded.shape[0], padded.shape[1] // each), np.uint32)
    for place in range(each):
        words |= padded[:, place::each].astype(np.uint32) << np.uint32(place * bits)
    return words.view(np.int32)


def gptq(matrix: Matrix) -> dict[str, Array]:
    zeros = (matrix.zeros - 1) % (1 << matrix.bits)
    return {
        "qweight": np.ascontiguousarray(packed(matrix.levels, matrix.bits).T),
        "qzeros": packed(np.ascontiguousarray(zeros.T), matrix.bits),
        "scales": np.ascontiguousarray(matrix.scales.T),
        "g_idx": matrix.groups.astype(np.int32),
    }


def awq(matrix: Matrix) -> dict[str, Array]:
    def interleaved(numbers: Array) -> Array:
        return packed(numbers.reshape(len(numbers), -1, 8)[..., AWQ_ORDER].reshape(len(numbers), -1), 4)

    return {
        "qweight": interleaved(np.ascontiguousarray(matrix.levels.T)),
        "qzeros": interleaved(np.ascontiguousarray(matrix.zeros.T)),
        "scales": np.ascontiguousarray(matrix.scales.T),
    }


def compressed(matrix: Matrix) -> dict[str, Array]:
    return {
        "weight_packed": packed(matrix.levels, matrix.bits),
        "weight_shape": np.array(matrix.levels.shape, np.int64),
        "weight_zero_point": np.ascontiguousarray(packed(np.ascontiguousarray(matrix.zeros.T), matrix.bits).T),
        "weight_scale": matrix.scales,
        "weight_g_idx": matrix.groups.astype(np.int32),
    }


def modelopt(matrix: Matrix) -> dict[str, Array]:
    signed = (matrix.levels - 8) & 0xF
    return {"weight": (signed[0::2] | signed[1::2] << 4).astype(np.uint8), "weight_scale": matrix.scales}


PACKERS: dict[str, Callable[[Matrix], dict[str, Array]]] = {
    "gptq": gptq,
    "awq": awq,
    "compressed-tensors": compressed,
    "modelopt": modelopt,
}


def quantization_config(method: str, bits: int, size: int) -> dict[str, Any]:
    """What config.json says of such a model."""
    weights = {"num_bits": bits, "type": "int", "strategy": "group" if size else "channel", "group_size": size or None}
    each: dict[str, dict[str, Any]] = {
        "gptq": {"bits": bits, "group_size": size or -1, "desc_act": True, "sym": False},
        "awq": {"bits": bits, "group_size": size or -1, "zero_point": True, "version": "gemm"},
        "compressed-tensors": {"format": "pack-quantized", "config_groups": {"group_0": {"weights": weights}}},
        "modelopt": {"quant_algo": "W4A16_AWQ"},
    }
    return {"quant_method": method, **each[method]}


def raw_tensors(model: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Type, shape and bytes of each tensor: the package has no NumPy type for 8-bit floats."""
    content = (model / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    return {
        name: (facts["dtype"], facts["shape"], data[slice(*facts["data_offsets"])])
        for name, facts in header.items()
        if name != "__metadata__"
    }


def rewrite(model: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    header: dict[str, Any] = {}
    place = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + len(data)]}
        place += len(data)
    text = json.dumps(header).encode()
    body = b"".join(data for _, _, data in tensors.values())
    (model / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
