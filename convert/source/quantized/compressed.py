"""compressed-tensors, the format of llmcompressor: integers packed into words, whole integers, and 8-bit floats.

What a matrix is made of follows from its tensors; config.json says which bits, group sizes and blocks there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from inflight.convert.source.quantized.float4 import MX_GROUP, NV_GROUP, NV_SCALE, mxfp4_tensor, nvfp4_tensor
from inflight.convert.source.quantized.float8 import ACTIVATION_ENDINGS
from inflight.convert.source.quantized.grouped import GroupedTensor, Integers, half_range, unpack_first, unpack_last
from inflight.convert.source.quantized.parts import Parts
from inflight.convert.source.quantized.scaled import FLOAT8, scaled_stacks, scaled_tensor
from inflight.convert.source.stored import read_all, read_rows
from inflight.convert.source.tensor import Array, SourceTensor
from inflight.dtypes import FLOAT_DTYPES
from inflight.files.tensor_file import TensorEntry

_BITS = (2, 4, 8)
# The sizes of groups of floats of 4 bits, by the format that says which kind they are.
_FLOAT4 = {"mxfp4-pack-quantized": MX_GROUP, "nvfp4-pack-quantized": NV_GROUP}
# What `actorder` is where groups are no neighbours: the other kinds reorder before there are groups.
_ORDERED = ("group", "dynamic", True)
_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", *_FLOAT4, "dense")


def _groups(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups = config.get("config_groups")
    return [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []


def _weights(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """How weights are quantized, of every group of modules."""
    found = [group.get("weights") for group in _groups(config)]
    return [weights for weights in found if isinstance(weights, dict)]


def compressed_problems(config: Mapping[str, Any]) -> list[str]:
    """What of a quantization_config is not supported."""
    named = [group.get("format") for group in _groups(config)]
    formats = [config.get("format"), *named] if config.get("format") != "mixed-precision" else named
    problems = [
        f"format {form!r} (supported: {', '.join(_FORMATS)})"
        for form in dict.fromkeys(map(str, filter(None, formats)))
        if form not in _FORMATS
    ]
    groups = [size for form, size in _FLOAT4.items() if form in formats]
    for weights in _weights(config):
        bits = weights.get("num_bits", 8)
        floats = weights.get("type") == "float"
        if bits not in _BITS or (floats and bits != 8 and weights.get("group_size") not in groups):
            problems.append(f"num_bits {bits!r} of type {weights.get('type', 'int')!r}")
        size, block = weights.get("group_size"), weights.get("block_structure")
        if size is not None and (not isinstance(size, int) or (size < 1 and size != -1)):
            problems.append(f"group_size {size!r} (a positive number, or -1)")
        if block is not None and not _is_block(block):
            problems.append(f"block_structure {block!r} (two positive numbers)")
    sparsity = config.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        problems.append(f"sparsity_config of format {sparsity['format']!r} (weights that are left out)")
    if config.get("transform_config"):
        problems.append("transform_config (weights that were rotated)")
    return problems


def _is_block(block: Any) -> bool:
    return isinstance(block, list) and len(block) == 2 and all(isinstance(size, int) and size > 0 for size in block)


def compressed_tensors(config: Mapping[str, Any], parts: Parts) -> Iterator[SourceTensor]:
    """Every matrix that has a weight_packed, or a weight of 8-bit integers or floats."""
    schemes = _weights(config)
    parts.leave_out(ACTIVATION_ENDINGS)
    for module in parts.modules("weight_packed"):
        packed = _float4(parts, module) if _holds_bytes(parts, module) else _packed(parts, module, schemes)
        if packed is not None:
            yield packed
    blocks = [tuple(scheme["block_structure"]) for scheme in schemes if scheme.get("block_structure")]
    integers = [scheme for scheme in schemes if scheme.get("num_bits", 8) == 8 and scheme.get("type") != "float"]
    for module, weight in parts.weights((*FLOAT8, "int8")):
        form = "INT8" if weight.dtype == "int8" else "FP8"
        scale = parts.find(module, "weight_scale")
        fits = [block for block in blocks if scale is not None and scale.shape == _grid(weight.shape, block)]
        has_zeros = parts.has(module, "weight_zero_point") or (weight.dtype == "int8" and _have_zeros(integers))
        zeros = "weight_zero_point" if has_zeros else None
        found = scaled_tensor(
            parts, module, f"compressed-tensors {form}", weight, "weight_scale", fits[0] if fits else None, zeros
        )
        if found is not None:
            yield found
    yield from scaled_stacks(parts, "compressed-tensors FP8")


def _holds_bytes(parts: Parts, module: str) -> bool:
    """True where codes of floats are packed: integers are packed into words."""
    packed = parts.find(module, "weight_packed")
    return packed is not None and packed.dtype == "uint8"


def _float4(parts: Parts, module: str) -> SourceTensor | None:
    scale = parts.find(module, "weight_scale")
    if scale is not None and scale.dtype == NV_SCALE:
        return nvfp4_tensor(parts, module, "weight_packed", "weight_global_scale", divides=True)
    return mxfp4_tensor(parts, module)


def _grid(shape: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-size // each) for size, each in zip(shape, block, strict=False))


def _have_zeros(schemes: list[Mapping[str, Any]]) -> bool:
    """Whether a matrix of one of these schemes has zero points, whichever it is."""
    return bool(schemes) and all(scheme.get("symmetric") is False for scheme in schemes)


def _have_order(schemes: list[Mapping[str, Any]]) -> bool:
    """Whether the inputs of a matrix of one of these schemes are ordered (desc_act), whichever it is."""
    return bool(schemes) and all(scheme.get("actorder") in _ORDERED for scheme in schemes)


def _packed(parts: Parts, module: str, schemes: list[Mapping[str, Any]]) -> PackedTensor | None:
    packed = parts.take(module, "weight_packed", dtypes=("int32",))
    shape_entry = parts.take(module, "weight_shape", [(2,)], ("int32", "int64"))
    if packed is None or shape_entry is None:
        return None
    rows, width = map(int, read_all(shape_entry))
    all_bits = [bits for bits in _BITS if packed.shape == (rows, -(-width * bits // 32))]
    listed = [scheme.get("num_bits", 8) for scheme in schemes]
    bits = next((bits for bits in all_bits if bits in listed), None)
    if not schemes:
        parts.problems.append(f"config_groups says nothing of weights: {packed.name} is packed by its num_bits")
        return None
    if bits is None:
        parts.problems.append(
            f"misshapen tensor: {packed.name} {packed.shape} does not hold ({rows}, {width}) integers of "
            f"{' or '.join(map(str, sorted(set(listed))))} bits"
        )
        return None
    schemes = [scheme for scheme in schemes if scheme.get("num_bits", 8) == bits]
    sizes = {scheme.get("group_size") for scheme in schemes}
    groups = {1: width} | {-(-width // size): size for size in sizes if size and size > 0}
    scale = parts.take(module, "weight_scale", [(rows, count) for count in groups], FLOAT_DTYPES)
    if scale is None:
        return None
    zeros = parts.find(module, "weight_zero_point")
    if zeros is not None or _have_zeros(schemes):
        zeros = parts.take(module, "weight_zero_point", [(-(-rows * bits // 32), scale.shape[1]), scale.shape])
        if zeros is None:
            return None
    order = parts.find(module, "weight_g_idx")
    if order is not None or _have_order(schemes):
        order = parts.take(module, "weight_g_idx", [(width,)], ("int32", "int64"))
        # An order that is not followed is all -1.
        order = None if order is not None and (read_all(order) == -1).all() else order
    return PackedTensor(module, (rows, width), bits, packed, zeros, scale, groups[scale.shape[1]], order)


class PackedTensor(GroupedTensor):
    """One matrix: signed integers, stored with half their range added; zero points likewise, packed along the rows."""

    def __init__(
        self,
        module: str,
        shape: tuple[int, int],
        bits: int,
        packed: TensorEntry,
        zeros: TensorEntry | None,
        scale: TensorEntry,
        group_size: int,
        order: TensorEntry | None,
    ) -> None:
        form = f"compressed-tensors int{bits}"
        parts, name = (packed, zeros), f"{module}.weight"
        super().__init__(name, shape, form, parts, scale, bits=bits, group_size=group_size, order=order)
        self._packed, self._zero_points = packed, zeros

    def _levels(self, start: int, stop: int) -> Integers:
        words = read_rows(self._packed, start, stop)
        return unpack_last(words, self._bits)[:, : self.shape[1]] - half_range(self._bits)

    def _scales(self, start: int, stop: int) -> Array:
        return read_rows(self._scale, start, stop)

    def _zeros(self, start: int, stop: int) -> Integers | None:
        if self._zero_points is None:
            return None
        if self._zero_points.dtype != "int32":
            return read_rows(self._zero_points, start, stop).astype(np.int32)
        each = 32 // self._bits
        first = start // each
        found = unpack_first(read_rows(self._zero_points, first, -(-stop // each)), self._bits)
        return found[start - first * each : stop - first * each] - half_range(self._bits)
