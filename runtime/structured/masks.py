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

    from inflight.runtime.scheduler.step import ScheduledSequence


def mask_rows(rows: Sequence[tuple[ScheduledSequence, Grammar]]) -> None:
    """Give each of these the mask of its next token."""
    _fill_masks([grammar for _, grammar in rows])
    for record, grammar in rows:
        record.allowed = allowed = grammar.mask()
        if allowed is not None and record.banned and not _allows_others(allowed, record.banned):
            # A text that can only end ends, whatever min_tokens asks for.
            record.banned = ()


def _allows_others(allowed: bytes, banned: tuple[int, ...]) -> bool:
    """Whether a mask has a bit for a token that is not banned."""
    return bool(int.from_bytes(allowed, "little") & ~sum(1 << token for token in set(banned)))


def _fill_masks(grammars: Sequence[Grammar]) -> None:
    """Compute what `mask` of these will need, on every core at once: threads of an engine on the
    CPU stand still meanwhile."""
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
