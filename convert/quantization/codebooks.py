"""Tables of 16 numbers that codes of 4 bits stand for.

A weight is the number of its code times the scale of its group. Numbers are float32, in the order of their codes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from inflight.convert.quantization.schemes import Codebook

Table = npt.NDArray[np.float32]

# Quantiles of the normal distribution (QLoRA, Dettmers et al., 2023), and the floats of bitsandbytes.
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_FP4 = (
    *(0.0, 0.0052083334885537624, 0.6666666865348816, 1.0),
    *(0.3333333432674408, 0.5, 0.1666666716337204, 0.25),
)
# Floats with two bits of exponent and one of mantissa (OCP Microscaling), and llama.cpp's table.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _table(numbers: tuple[float, ...]) -> Table:
    table = np.array(numbers, np.float32)
    table.flags.writeable = False
    return table


CODEBOOKS: Mapping[Codebook, Table] = {
    "nf4": _table(_NF4),
    # The codes with the upper bit set are the negatives: of zero bitsandbytes has zero, E2M1 has another zero.
    "fp4": _table((*_FP4, *(0.0 - number for number in _FP4))),
    "e2m1": _table((*_E2M1, *(-number for number in _E2M1))),
    "iq4": _table(_IQ4),
}
# What makes all numbers of a table integers of 8 bits.
INTEGER_FACTORS: Mapping[Codebook, int] = {"e2m1": 2, "iq4": 1}


def codebook_of(table: npt.NDArray[np.generic] | None) -> Codebook | None:
    """The codebook with these numbers, zeros of either sign; None: there is none."""
    return next((name for name, each in CODEBOOKS.items() if table is not None and np.array_equal(each, table)), None)


def nearest_codes(numbers: npt.NDArray[np.float32], codebook: Codebook) -> npt.NDArray[np.int8]:
    """The codes of the numbers nearest to these, the lower one of two that are as near."""
    table = CODEBOOKS[codebook]
    order = np.argsort(table, kind="stable")
    ordered = table[order]
    middles = (ordered[1:] + ordered[:-1]) / np.float32(2)
    codes: npt.NDArray[np.int8] = order[np.searchsorted(middles, numbers)].astype(np.int8)
    return codes


def powers_of_two(exponents: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Scales of OCP Microscaling (E8M0): 2^(exponent - 127), 255 is none, and infinite."""
    with np.errstate(over="ignore"):
        scales: npt.NDArray[np.float32] = np.ldexp(np.float32(1), exponents.astype(np.int32) - 127)
    return scales
