"""The masks of one step, computed together."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from inflight.machine.resources import usable_cores
from inflight.runtime.structured.grammar import Grammar

if TYPE_CHECKING:
    from llguidance import LLExecutor


def fill_masks(grammars: Sequence[Grammar]) -> None:
    """Compute what `mask` of these will need, on every core at once: the engine's own threads stand still meanwhile."""
    open_ = [inner for each in grammars if (inner := each.without_mask) is not None]
    if len(open_) < 2:
        return
    size = open_[0].full_bytes
    buffer = bytearray(size * len(open_))
    address = ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
    matchers = [(each.matcher, place) for place, each in enumerate(open_)]
    _threads().unsafe_compute_mask_ptr(matchers, address, size, len(open_))
    view = memoryview(buffer)
    for place, each in enumerate(open_):
        each.keep_mask(view[place * size : (place + 1) * size])


@cache
def _threads() -> LLExecutor:
    from llguidance import LLExecutor

    return LLExecutor(num_threads=usable_cores())
