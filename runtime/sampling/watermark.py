"""The watermark of Kirchenbauer et al. 2023, "A Watermark for Large Language Models": which tokens a token favours, and
whether a text has more of them than chance gives it.

The favoured tokens ("green list") of a token are those whose hash under it is below gamma of its range. TGI takes the
first of a random permutation of the vocabulary, drawn by torch's generator of the device it runs on: another list on a
GPU than on a CPU, so that its texts are not found here and texts from here not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, sqrt
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Ids: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.uint32]

# That of TGI, a large prime.
_KEY = np.uint32(15485863)


class Watermark(NamedTuple):
    """`delta` is added to the logits of the favoured tokens, a share `gamma` of the vocabulary; these are TGI's."""

    gamma: float = 0.5
    delta: float = 2.0


def is_favoured(previous: Ids, tokens: Ids, gamma: float) -> npt.NDArray[np.bool_]:
    """Whether each of `tokens` is favoured behind `previous`; both are broadcast. `gamma` is rounded to float32."""
    below = np.uint32(int(float(np.float32(gamma)) * 2.0**32))
    key = _scramble(np.atleast_1d(previous).astype(np.uint32) ^ _KEY)
    favoured: npt.NDArray[np.bool_] = _scramble(_scramble(tokens.astype(np.uint32) ^ key) + key) < below
    return favoured


def _scramble(x: Words) -> Words:
    """A permutation of 32-bit words: the finalizer "lowbias32" of Wellons's "Hash Prospector"."""
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
    return x ^ x >> np.uint32(16)


@dataclass(frozen=True, slots=True)
class WatermarkScore:
    """`tokens` different pairs of neighbours were counted, of which the second is favoured in `favoured`.

    `z`: by how many standard deviations that is more than a share `gamma` of them; `p`: how likely a text without a
    watermark has so great a z. Both are 0 and 1 where nothing was counted.
    """

    tokens: int
    favoured: int
    gamma: float
    z: float
    p: float


def watermark_score(token_ids: Sequence[int], gamma: float) -> WatermarkScore:
    """The score of a text: its z statistic and the tail of the normal distribution behind it (equation 3 of the paper).

    A pair of neighbours that comes again is counted once: the same pair is always favoured, or never, so that a text
    which repeats itself would pass for watermarked by chance.
    """
    ids = np.asarray(token_ids, np.int64)
    pairs = np.unique(np.stack([ids[:-1], ids[1:]], axis=1), axis=0) if len(ids) > 1 else np.empty((0, 2), np.int64)
    count = len(pairs)
    favoured = int(is_favoured(pairs[:, 0], pairs[:, 1], gamma).sum())
    z = (favoured - gamma * count) / sqrt(count * gamma * (1 - gamma)) if count else 0.0
    return WatermarkScore(count, favoured, gamma, z, 0.5 * erfc(z / sqrt(2)) if count else 1.0)
