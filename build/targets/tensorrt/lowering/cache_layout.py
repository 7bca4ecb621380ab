"""Where a network finds the cache of a sequence: in a slot of its own, or in blocks of a pool that tables list.

Sizes have one letter: B blocks of the cache, T tokens, R logit rows; with slots, L the longest run of tokens of one
sequence; with a pool, S sequences, W entries of a block table, Q tiles of prompt rows, D rows of decodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from inflight.engine_format import tensorrt_facts
from inflight.engine_format.manifest import Limits

# Least, typical and greatest size.
Range: TypeAlias = tuple[int, int, int]
Ranges: TypeAlias = Mapping[str, Range]

# Tokens of a context that one program of decode attention takes. A multiple of every tile of keys; the order of a row's
# sums depends on it.
SPLIT_TOKENS = 256

LOGIT_ROWS, QUERY_STARTS = "logit_rows", "query_starts"
PADDED_ROWS, PACKED_ROWS, KV_LENGTHS = "padded_rows", "packed_rows", "kv_lengths"
SEQUENCE_OF_ROW, BLOCK_TABLES, ATTENTION_ROWS = "sequence_of_row", "block_tables", "attention_rows"
TILE_BEGINS, TILE_ENDS = "tile_begins", "tile_ends"
DECODE_ROWS, DECODE_POSITIONS, DECODE_SEQUENCES = "decode_rows", "decode_positions", "decode_sequences"


class CacheLayout(Protocol):
    """`name` is the manifest's; `inputs` are int32, with their sizes by axis; `pages`: attention reads block tables."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def pages(self) -> bool: ...

    def tokens_per_block(self, max_seq_len: int) -> int: ...
    def ranges(self, limits: Limits) -> tuple[Ranges, Ranges]:
        """Of every size: in the profile of decodes, and in that of everything."""
        ...


@dataclass(frozen=True)
class SlotLayout:
    """A block is a slot: as long as the longest sequence, so that a sequence has one."""

    name: str = tensorrt_facts.SLOTS
    pages: bool = False

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        return {
            QUERY_STARTS: ("B + 1",),
            KV_LENGTHS: ("B",),
            PADDED_ROWS: ("B", "L"),
            PACKED_ROWS: ("T",),
            LOGIT_ROWS: ("R",),
        }

    def tokens_per_block(self, max_seq_len: int) -> int:
        return max_seq_len

    def ranges(self, limits: Limits) -> tuple[Ranges, Ranges]:
        decode, mixed = _common_ranges(limits)
        batch, longest = limits.max_batch_size, mixed["T"][1]
        return (
            {**decode, **_blocks(_upto(batch)), "L": (1, 1, 1)},
            {**mixed, **_blocks((1, 1, batch)), "L": (1, longest, longest)},
        )


@dataclass(frozen=True)
class BlockLayout:
    """Blocks of `block_size` tokens in one pool; a sequence's are listed in its row of the block tables."""

    block_size: int
    name: str = tensorrt_facts.BLOCKS
    pages: bool = True

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        return {
            QUERY_STARTS: ("B + 1",),
            **dict.fromkeys((SEQUENCE_OF_ROW, ATTENTION_ROWS), ("T",)),
            BLOCK_TABLES: ("S", "W"),
            **dict.fromkeys((TILE_BEGINS, TILE_ENDS), ("Q",)),
            **dict.fromkeys((DECODE_ROWS, DECODE_POSITIONS, DECODE_SEQUENCES), ("D",)),
            LOGIT_ROWS: ("R",),
        }

    def tokens_per_block(self, max_seq_len: int) -> int:
        return self.block_size

    def ranges(self, limits: Limits) -> tuple[Ranges, Ranges]:
        decode, mixed = _common_ranges(limits)
        batch, width = limits.max_batch_size, -(-limits.max_seq_len // self.block_size)
        # The loader never takes more blocks than a full batch of the longest sequences has.
        pool = {**_blocks(_upto(batch * width)), "W": _upto(width)}
        return (
            {**decode, **pool, "S": _upto(batch), "D": _upto(batch), "Q": (1, 1, 1)},
            {**mixed, **pool, "S": _upto(batch), "D": _upto(batch), "Q": _upto(limits.max_num_tokens)},
        )


SLOTS = SlotLayout()


def _common_ranges(limits: Limits) -> tuple[dict[str, Range], dict[str, Range]]:
    batch, tokens, rows = limits.max_batch_size, limits.max_num_tokens, limits.max_logit_rows
    longest = min(tokens, limits.max_seq_len)
    return {"T": _upto(batch), "R": (1, batch, rows)}, {"T": (1, longest, tokens), "R": (1, 1, rows)}


def _blocks(blocks: Range) -> dict[str, Range]:
    """Of the caches, and of the cumulative counts of the rows that go to each block."""
    least, typical, greatest = blocks
    return {"B": blocks, "B + 1": (least + 1, typical + 1, greatest + 1)}


def _upto(greatest: int) -> Range:
    return 1, max(1, greatest // 2), greatest
