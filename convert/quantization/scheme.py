"""Which matrices of a checkpoint are quantized, and in which tensors a quantized matrix is stored.

Weights are symmetric integers: int8 with one scale per output, or int4 with one scale per group of neighbouring inputs.
Or they are 8-bit floats (E4M3) with one scale for the whole matrix and one for the rows that it meets.
docs/formats/checkpoint.md has the formats; the names of the algorithms are those of the TensorRT-LLM checkpoint format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from inflight.convert.quantization.facts import Activations, QuantizationFacts, QuantizationRecord

INT4_ALGORITHM = "W4A16_AWQ"
FLOAT8_ALGORITHM = "FP8"
# int8 under these names is written with the key `weight_layout`, which the format's own reader refuses: it would take
# W8A16 weights for ones that are interleaved for its GPU.
INT8_ALGORITHMS: Mapping[str, Activations] = {"W8A16": "int16", "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": "int8"}
WEIGHT_LAYOUT: Literal["out_in"] = "out_in"
KV_CACHE_ALGORITHM = "INT8"
ACTIVATION_SCALE_SUFFIX = ".activation_scaling_factor"
# Of the scales of int4 and 8-bit floats, of int8, and of rows of 8-bit floats.
SCALE_SUFFIXES = (".weights_scaling_factor", ".per_channel_scale", ACTIVATION_SCALE_SUFFIX)
# What the format leaves unquantized when `exclude_modules` is null.
DEFAULT_EXCLUDED = ("*lm_head", "*router", "*vocab_embedding", "*position_embedding", "*block_embedding")
ALWAYS_EXCLUDED = "*vocab_embedding"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as a rank file holds it; `dtype` is a numpy name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class WeightQuantization:
    """How the quantized matrices of a checkpoint are stored, and how the rows that they multiply are rounded.

    `group_size` 0: one scale per output, or per matrix of 8-bit floats. `excluded` are fnmatch patterns on module
    paths.
    """

    bits: Literal[4, 8]
    group_size: int
    activations: Activations
    excluded: tuple[str, ...]

    def covers(self, module: str) -> bool:
        """True when the matrix of this module path ("lm_head", "transformer.layers.0.mlp.fc") is quantized."""
        return not any(fnmatchcase(module, pattern) for pattern in (*self.excluded, ALWAYS_EXCLUDED))

    @property
    def is_float8(self) -> bool:
        """Weights and rows are E4M3."""
        return self.activations == "float8_e4m3fn"

    def scale_name(self, module: str) -> str:
        return f"{module}{SCALE_SUFFIXES[0] if self.bits == 4 or self.is_float8 else SCALE_SUFFIXES[1]}"

    def stored(self, module: str, rows: int, columns: int) -> tuple[StoredTensor, ...]:
        """Weight and scales of a matrix of this shape: bytes of int4 hold two neighbouring rows, the even one low."""
        if self.is_float8:
            return (
                StoredTensor(f"{module}.weight", (rows, columns), "float8_e4m3fn"),
                StoredTensor(self.scale_name(module), (1,), "float32"),
                StoredTensor(f"{module}{ACTIVATION_SCALE_SUFFIX}", (1,), "float32"),
            )
        height = -(-rows // 2) if self.bits == 4 else rows
        scales = (rows, -(-columns // self.group_size)) if self.group_size else (rows,)
        return (
            StoredTensor(f"{module}.weight", (height, columns), "int8"),
            StoredTensor(self.scale_name(module), scales, "float32"),
        )


def weight_quantization(facts: QuantizationFacts, record: QuantizationRecord | None) -> WeightQuantization | None:
    """The quantization of a supported block (see `quantization_problems`); None for plain weights."""
    if facts.quant_algo is None:
        return None
    excluded = DEFAULT_EXCLUDED if facts.exclude_modules is None else facts.exclude_modules
    if facts.quant_algo == INT4_ALGORITHM:
        return WeightQuantization(4, facts.group_size, record.activations if record else "int16", excluded)
    if facts.quant_algo == FLOAT8_ALGORITHM:
        return WeightQuantization(8, 0, "float8_e4m3fn", excluded)
    return WeightQuantization(8, 0, INT8_ALGORITHMS[facts.quant_algo], excluded)


def quantization_problems(facts: QuantizationFacts) -> list[str]:
    """Everything unsupported in this block, one phrase each; empty when it is supported."""
    algorithm = facts.quant_algo
    problems = []
    if algorithm in INT8_ALGORITHMS:
        if facts.weight_layout != WEIGHT_LAYOUT:
            problems.append(f"quant_algo {algorithm!r} with weights laid out for a GPU (weight_layout is not 'out_in')")
    elif algorithm not in (None, INT4_ALGORITHM, FLOAT8_ALGORITHM):
        supported = ", ".join([INT4_ALGORITHM, FLOAT8_ALGORITHM, *INT8_ALGORITHMS])
        problems.append(f"quant_algo {algorithm!r} (supported: {supported})")
    if algorithm is not None and facts.pre_quant_scale:
        problems.append(f"quant_algo {algorithm!r} with pre_quant_scale (scales of its inputs)")
    if algorithm is not None and facts.has_zero_point:
        problems.append(f"quant_algo {algorithm!r} with has_zero_point")
    if algorithm is not None and facts.group_size < 1:
        problems.append(f"group_size {facts.group_size}")
    if facts.kv_cache_quant_algo not in (None, KV_CACHE_ALGORITHM):
        problems.append(f"kv_cache_quant_algo {facts.kv_cache_quant_algo!r} (supported: {KV_CACHE_ALGORITHM})")
    return problems
