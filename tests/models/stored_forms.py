"""Hand-made quantized checkpoints: plain ones whose matrices are stored as other writers and calibration do it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.directory import CONFIG_NAME, Checkpoint
from inflight.convert.quantization.modules import ModuleQuantization
from inflight.convert.quantization.scheme import WeightQuantization
from inflight.dtypes import numpy_dtype
from inflight.files.tensor_file import map_array
from tests.models.float8 import write_tensors

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Form:
    """`block` is the `quantization` block. `signed`: scales of either sign, drawn for each. `shared`: the rows of gate
    and up have the same factors and scale. `factors`: of rows, where the block says so.
    """

    name: str
    block: Mapping[str, Any] = field(default_factory=dict)
    signed: bool = False
    shared: bool = True
    factors: bool = True

    def __str__(self) -> str:
        return self.name


_AWQ = {"quant_algo": "W4A16_AWQ", "has_zero_point": False}
SCALED_INPUTS = (
    Form("awq 128", {**_AWQ, "group_size": 128, "pre_quant_scale": True}),
    Form("awq 32 apart", {**_AWQ, "group_size": 32, "pre_quant_scale": True}, shared=False),
    Form("static smoothquant", {"quant_algo": "W8A8_SQ_PER_CHANNEL"}),
    Form("static smoothquant apart", {"quant_algo": "W8A8_SQ_PER_CHANNEL"}, shared=False),
    Form("scaled int8", {"quant_algo": "W8A16", "weight_layout": "out_in", "pre_quant_scale": True}),
)
_W4A8 = {**_AWQ, "quant_algo": "W4A8_AWQ", "pre_quant_scale": True}
FLOAT_ROWS = (
    Form("w4a8 awq", {**_W4A8, "group_size": 128}),
    Form("w4a8 awq apart", {**_W4A8, "group_size": 32}, shared=False),
)
# As ModelOpt writes them without AWQ, and without SmoothQuant: with factors in config.json at most.
UNSCALED = (
    Form("plain int4", {**_AWQ, "group_size": 32, "pre_quant_scale": True}, factors=False),
    Form("static int8", {"quant_algo": "W8A8_SQ_PER_CHANNEL"}, factors=False),
    Form("portable int8", {"quant_algo": "W8A16"}),
)
_GUARDED = {"weight_layout": "out_in"}
_GROUPS = {"quant_algo": "W8A16_GPTQ", **_GUARDED}
GROUPS_AND_ZEROS = (
    Form("int8 groups of 16", {**_GROUPS, "group_size": 16}, signed=True),
    Form("int8 groups of 64, zeros", {**_GROUPS, "group_size": 64, "has_zero_point": True}),
    Form("int8 groups of 32, zeros", {**_GROUPS, "group_size": 32, "has_zero_point": True}, signed=True),
    Form("int4 groups of 32, zeros", {**_AWQ, **_GUARDED, "group_size": 32, "has_zero_point": True}),
    Form("awq 64, zeros", {**_AWQ, **_GUARDED, "group_size": 64, "has_zero_point": True, "pre_quant_scale": True}),
)
SIGNED_SCALES = (
    Form("signed int4", {**_AWQ, "group_size": 32}, signed=True),
    Form("signed int8", {"quant_algo": "W8A16", "weight_layout": "out_in"}, signed=True),
)
FORMS = (*SCALED_INPUTS, *FLOAT_ROWS, *UNSCALED, *SIGNED_SCALES, *GROUPS_AND_ZEROS)


def store_as(directory: Path, form: Form, rng: np.random.Generator) -> Checkpoint:
    """Rewrite the plain checkpoint in `directory`."""
    plain = Checkpoint.open(directory)
    block = {"exclude_modules": ["lm_head"], **form.block}
    rule = ModuleQuantization(plain.config.quantization.model_copy(update=block), {})
    tensors: dict[str, Array] = {}
    for name, entry in plain.tensors.items():
        module, values = name.removesuffix(".weight"), np.array(map_array(entry))
        quantization = rule.of(module) if name.endswith(".weight") and values.ndim == 2 else None
        if quantization is None:
            tensors[name] = values
        else:
            tensors.update(
                _Matrix(module, quantization, form, rng).tensors(values.astype(np.float32), plain.config.dtype)
            )
    if form.shared:
        for suffix in ("prequant_scaling_factor", "activation_scaling_factor"):
            for name in [name for name in tensors if name.endswith(f"mlp.gate.{suffix}")]:
                tensors[name] = tensors[name.replace("mlp.gate", "mlp.fc")]
    write_tensors(directory, tensors)
    config = json.loads((directory / CONFIG_NAME).read_text())
    config["quantization"].update(block)
    (directory / CONFIG_NAME).write_text(json.dumps(config))
    return Checkpoint.open(directory)


@dataclass(frozen=True)
class _Matrix:
    module: str
    quantization: WeightQuantization
    form: Form
    rng: np.random.Generator

    def tensors(self, weight: Floats, dtype: str) -> dict[str, Array]:
        quantization, tensors = self.quantization, dict[str, Array]()
        factors = np.ones(weight.shape[1], np.float32)
        if quantization.scaled_inputs and self.form.factors:
            stored = self.rng.uniform(0.5, 2, weight.shape[1]).astype(np.float32).astype(numpy_dtype(dtype))
            tensors[f"{self.module}.prequant_scaling_factor"], factors = stored, stored.astype(np.float32)
        levels, scales, zeros = self._rounded(weight / factors)
        tensors[f"{self.module}.weight"] = _pairs(levels) if quantization.bits == 4 else levels
        tensors[quantization.scale_name(self.module)] = scales
        zero = quantization.zero_name(self.module)
        if zero is not None:
            tensors[zero] = zeros
        row_scale = quantization.row_scale_name(self.module)
        if row_scale is not None:  # small enough to cut some off
            tensors[row_scale] = self.rng.uniform(0.015, 0.05, 1).astype(np.float32)
        return tensors

    def _rounded(self, weight: Floats) -> tuple[Array, Floats, Floats]:
        """Levels, scales of rows or of groups, and zero points: whole multiples of the scales, as others have them, but
        for the rounding of the product.
        """
        size, greatest = self.quantization.group_size or weight.shape[1], 2 ** (self.quantization.bits - 1) - 1
        starts = np.arange(0, weight.shape[1], size)
        scales = np.maximum.reduceat(np.abs(weight), starts, axis=1) / np.float32(greatest)
        if self.form.signed:
            scales *= self.rng.choice([-1, 1], scales.shape).astype(np.float32)
        zeros = np.zeros_like(scales)
        if self.quantization.zero_points:
            zeros = (scales * self.rng.integers(-3, 4, scales.shape)).astype(np.float32)
        wide, shift = (np.repeat(each, size, axis=1)[:, : weight.shape[1]] for each in (scales, zeros))
        levels = np.clip(np.rint((weight - shift) / wide), -greatest - 1, greatest).astype(np.int8)
        return levels, scales if self.quantization.group_size else scales[:, 0], zeros


def _pairs(levels: Array) -> Array:
    padded = np.pad(levels, ((0, len(levels) % 2), (0, 0))).view(np.uint8) & 15
    return (padded[0::2] | padded[1::2] << 4).view(np.int8)
