"""Random ragged steps over several sequences with a paged cache, as a scheduler would make them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from inflight.build.graph.values import dtype_of, name_of, shape_of

Array = npt.NDArray[Any]


@dataclass
class Sequence:
    """`done` of the tokens are in the cache; `blocks` are scattered over the pool."""

    token_ids: Array
    blocks: Array
    done: int = 0


@dataclass(frozen=True)
class Step:
    """The inputs of one step, and for each logit row the sequence and the position that it belongs to."""

    inputs: Mapping[str, Array]
    wanted: list[tuple[int, int]]


@dataclass
class PagedBatch:
    """Feeds sequences to a fused graph in random chunks, until all of their tokens are computed."""

    rng: np.random.Generator
    sequences: list[Sequence]
    max_num_tokens: int
    max_logit_rows: int
    history: list[Step] = field(default_factory=list)

    def steps(self) -> Iterator[Step]:
        while any(sequence.done < len(sequence.token_ids) for sequence in self.sequences):
            step = self._step()
            if step.inputs["token_ids"].size:
                yield step

    def _step(self) -> Step:
        rng, left = self.rng, self.max_num_tokens
        columns: list[tuple[int, int]] = []
        for index in rng.permutation(len(self.sequences)):
            sequence = self.sequences[index]
            remaining = min(len(sequence.token_ids) - sequence.done, left)
            if remaining < 1 or rng.random() < 0.2:
                continue
            count = 1 if rng.random() < 0.4 else int(rng.integers(1, remaining + 1))
            columns += [(int(index), sequence.done + offset) for offset in range(count)]
            sequence.done += count
            left -= count
        rows = rng.permutation(len(columns))[: self.max_logit_rows]
        return Step(self._inputs(columns, np.sort(rows)), [columns[row] for row in np.sort(rows)])

    def _inputs(self, columns: list[tuple[int, int]], rows: Array) -> dict[str, Array]:
        tokens = [self.sequences[index].token_ids[position] for index, position in columns]
        return {
            "token_ids": np.array(tokens, np.int32),
            "positions": np.array([position for _, position in columns], np.int32),
            "sequence_of_row": np.array([index for index, _ in columns], np.int32),
            "block_tables": np.stack([sequence.blocks for sequence in self.sequences]).astype(np.int32),
            "logit_rows": rows.astype(np.int32),
        }


def paged_caches(graph: ir.Graph, num_blocks: int) -> dict[str, Array]:
    """Caches full of NaN: whatever is read before it is written shows."""
    return {
        name_of(value): np.full((num_blocks, *shape_of(value)[1:]), np.nan, dtype_of(value).numpy())  # type: ignore[arg-type]
        for value in graph.inputs
        if "cache" in name_of(value)
    }


def scattered_sequences(
    rng: np.random.Generator, vocab_size: int, count: int, max_seq_len: int, tokens_per_block: int
) -> tuple[list[Sequence], int]:
    """Sequences of random lengths whose blocks are a random permutation of the pool; and the size of the pool."""
    per_sequence = -(-max_seq_len // tokens_per_block)
    tables = rng.permutation(count * per_sequence).reshape(count, per_sequence)
    lengths = rng.integers(1, max_seq_len + 1, count)
    return [Sequence(rng.integers(0, vocab_size, n), table) for n, table in zip(lengths, tables, strict=True)], (
        count * per_sequence
    )
