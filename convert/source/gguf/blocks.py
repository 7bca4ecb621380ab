"""Levels and scales of GGUF's blocks: value = level * scale + offset, the offset that of the block's least number.

Levels 0 .. 15 become -8 .. 7, with 8 scales in the offset; those of 5 bits with an offset fill a part of 8 bits, those
of 2 and 3 bits a part of 4. Codes of a table stay codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.convert.quantization.codebooks import powers_of_two
from inflight.convert.source.tensor import LevelForm

FORMS: Mapping[str, LevelForm] = {
    "Q8_0": LevelForm(8, 32, False),
    "Q4_0": LevelForm(4, 32, False),
    "Q4_1": LevelForm(4, 32, True),
    "Q5_0": LevelForm(8, 32, False),
    "Q5_1": LevelForm(8, 32, True),
    "Q2_K": LevelForm(4, 16, True),
    "Q3_K": LevelForm(4, 16, False),
    "Q4_K": LevelForm(4, 32, True),
    "Q5_K": LevelForm(8, 32, True),
    "Q6_K": LevelForm(8, 16, False),
    "IQ4_NL": LevelForm(4, 32, False, "iq4"),
    "IQ4_XS": LevelForm(4, 32, False, "iq4"),
    "MXFP4": LevelForm(4, 32, False, "e2m1"),
}
_HALF = {"Q3_K": 4, "Q4_0": 8, "Q4_1": 8, "Q5_0": 16, "Q4_K": 8, "Q6_K": 32}
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def block_levels(kind: str, blocks: Bytes) -> tuple[npt.NDArray[np.int32], Floats, Floats | None]:
    """Blocks [N, blocks of a row, bytes] as levels [N, K], scales [N, groups] and, where the form has them, offsets."""
    count = len(blocks)
    levels, scales, least = _large(kind, blocks) if kind.endswith(("_K", "_XS")) else _small(kind, blocks)
    half = _HALF.get(kind, 0)
    signed = levels.reshape(count, -1).astype(np.int32) - np.int32(half)
    scales = scales.reshape(count, -1)
    if least is None:
        return signed, scales, None
    return signed, scales, least.reshape(count, -1) + np.float32(half) * scales


def _small(kind: str, blocks: Bytes) -> tuple[Any, Floats, Floats | None]:
    """32 numbers: a scale, with _1 the least number, with 5 bits the fifth of each, and two of four bits to a byte."""
    least = _half(blocks, 2) if kind.endswith("_1") else None
    if kind == "Q8_0":
        return blocks[..., 2:].view(np.int8), _half(blocks, 0), None
    scale = powers_of_two(blocks[..., :1]) if kind == "MXFP4" else _half(blocks, 0)
    levels = np.concatenate([blocks[..., -16:] & 0xF, blocks[..., -16:] >> 4], axis=-1)
    if kind.startswith("Q5"):
        levels |= np.unpackbits(blocks[..., -20:-16], axis=-1, bitorder="little") << np.uint8(4)
    return levels, scale, least


def _large(kind: str, blocks: Bytes) -> tuple[Any, Floats, Floats | None]:
    """256 numbers in groups, whose scales and least numbers are integers times those of the block."""
    rows = blocks.shape[:2]
    if kind in ("Q2_K", "Q3_K"):
        return _two_bits(kind, blocks)
    if kind == "Q6_K":
        low = blocks[..., :128].reshape(*rows, 2, 1, 64) >> np.array([[0], [4]], np.uint8) & np.uint8(0xF)
        high = blocks[..., 128:192].reshape(*rows, 2, 1, 32) >> np.array([[0], [2], [4], [6]], np.uint8) & np.uint8(3)
        levels = low.reshape(*rows, 256) | high.reshape(*rows, 256) << np.uint8(4)
        return levels, blocks[..., 192:208].view(np.int8).astype(np.float32) * _half(blocks, 208), None
    if kind == "IQ4_XS":
        levels = blocks[..., 8:].reshape(*rows, 8, 1, 16) >> np.array([[0], [4]], np.uint8) & np.uint8(0xF)
        return levels.reshape(*rows, 8, 32), _signed_six_bits(blocks[..., 2:8]) * _half(blocks, 0), None
    scale, least = _six_bits(blocks[..., 4:16])
    levels = blocks[..., -128:].reshape(*rows, 4, 1, 32) >> np.array([[0], [4]], np.uint8) & np.uint8(0xF)
    levels = levels.reshape(*rows, 8, 32)
    if kind == "Q5_K":
        fifth = blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
        levels |= fifth << np.uint8(4)
    return levels, scale * _half(blocks, 0), -(least * _half(blocks, 2))


def _two_bits(kind: str, blocks: Bytes) -> tuple[Any, Floats, Floats | None]:
    """256 numbers in groups of 16. Q2_K: four bits each for a group's scale and its least number. Q3_K: signed scales
    of six bits, and a third bit of every level.
    """
    rows, first = blocks.shape[:2], 16 if kind == "Q2_K" else 32
    pairs = blocks[..., first : first + 64].reshape(*rows, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    levels = (pairs & np.uint8(3)).reshape(*rows, 256)
    if kind == "Q2_K":
        both = blocks[..., :16]
        return levels, (both & np.uint8(0xF)) * _half(blocks, 80), -((both >> np.uint8(4)) * _half(blocks, 82))
    third = blocks[..., None, :32] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
    levels |= third.reshape(*rows, 256) << np.uint8(2)
    low = (blocks[..., None, 96:104] >> np.array([[0], [4]], np.uint8) & np.uint8(0xF)).reshape(*rows, 16)
    high = blocks[..., None, 104:108] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & np.uint8(3)
    scale = (low | high.reshape(*rows, 16) << np.uint8(4)).astype(np.float32) - np.float32(32)
    return levels, scale * _half(blocks, 108), None


def _six_bits(packed: Bytes) -> tuple[Floats, Floats]:
    """12 bytes as 8 scales and 8 least numbers: of the first four of each the whole in a byte, whose two highest bits
    belong to the last four."""
    scale, least, both = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([scale & 0x3F, both & 0xF | scale >> 2 & 0x30], axis=-1)
    leasts = np.concatenate([least & 0x3F, both >> 4 | least >> 2 & 0x30], axis=-1)
    return scales.astype(np.float32), leasts.astype(np.float32)


def _signed_six_bits(packed: Bytes) -> Floats:
    """Of 8 scales two bits each in 2 bytes, and the four lower ones in 4 bytes, as numbers around 0."""
    high = packed[..., :2, None] >> np.arange(0, 8, 2, dtype=np.uint8) & np.uint8(3)
    low = packed[..., 2:, None] >> np.array([0, 4], np.uint8) & np.uint8(0xF)
    scales = low.reshape(*packed.shape[:-1], 8) | high.reshape(*packed.shape[:-1], 8) << np.uint8(4)
    return scales.astype(np.float32) - np.float32(32)


def _half(blocks: Bytes, place: int) -> Floats:
    """The float16 at this byte of each block, [N, blocks, 1]."""
    return np.ascontiguousarray(blocks[..., place : place + 2]).view(np.float16).astype(np.float32)
