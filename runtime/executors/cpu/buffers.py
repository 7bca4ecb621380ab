"""The arrays through which a step enters and leaves a compiled engine: allocated once, refilled every step."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from ctypes import addressof
from itertools import chain
from operator import is_

from msgspec import UNSET

from inflight.engine_format.cpu_abi import Batch, Output
from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.executors.cpu.arrays import Cells
from inflight.runtime.executors.cpu.results import StepResults
from inflight.runtime.executors.cpu.sampling_rows import SamplingRows
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch, StepOutput

_NO_BLOCK = -1  # out of range: the engine refuses a step that reads it


class StepBuffers:
    """Fills `inflight_batch` from a StepBatch and reads `inflight_output` into a StepOutput.

    What the arrays hold of the step before is kept: a decode whose record comes again at its place costs its token,
    its position and its new blocks.
    """

    def __init__(self, manifest: EngineManifest) -> None:
        limits = manifest.limits
        self._tokens_per_block = manifest.kv_cache.tokens_per_block
        self._max_blocks = -(-limits.max_seq_len // self._tokens_per_block)
        self._token_ids = Cells("i", limits.max_num_tokens)
        self._token_types = Cells("i", limits.max_num_tokens)
        self._follows = Cells("i", limits.max_num_tokens)
        self._chooses = manifest.pooling is UNSET
        self._has_types = manifest.pooling is not UNSET and manifest.pooling.token_types > 0
        self._starts = Cells("i", limits.max_batch_size + 1)
        self._contexts = Cells("i", limits.max_batch_size)
        self._tables = Cells("i", limits.max_batch_size * self._max_blocks)
        self._logit_rows = Cells("i", limits.max_logit_rows)
        self._sampling = SamplingRows(limits.max_logit_rows)
        self._results = StepResults(limits.max_logit_rows, manifest.model.vocab_size)

        # By place in the last batch: its record if it was a plain decode (else None), its first and its last logit row,
        # and how many tokens the blocks in its table hold.
        self._known: list[ScheduledSequence | None] = []
        self._rows: list[int] = []
        self._choices: list[int] = []
        self._covered: list[int] = []
        self._only_decodes = False  # the last batch had plain decodes alone: place, token and logit row are one number
        self._scores = False  # the last batch asked for log probabilities

        self.output: Output = self._results.output
        self.batch = Batch(
            block_table_stride=self._max_blocks,
            token_ids=self._token_ids.address,
            token_types=self._token_types.address,
            sequence_starts=self._starts.address,
            context_lengths=self._contexts.address,
            block_tables=self._tables.address,
            logit_rows=self._logit_rows.address,
            sampling=self._sampling.address,
        )
        self.addresses = addressof(self.batch), addressof(self.output)

    def fill(self, batch: StepBatch, before: StepBuffers | None = None) -> None:
        """Copy a batch into the arrays. Where its records follow a step, its arrays are `before`. Raises ValueError,
        IndexError or OverflowError when it does not fit.

        Values are not checked here: the engine checks token ids, blocks and lengths.
        """
        records = batch.sequences
        if self._only_decodes and len(records) == len(self._known) and all(map(is_, records, self._known)):
            self._advance(records)
        else:
            self._lay_out(records)
        self._follow(records, before)

    def read(self, batch: StepBatch) -> StepOutput:
        """The results of the step that `batch` filled."""
        if self._only_decodes and not self._scores:
            return StepOutput(self._results.tokens(len(batch.sequences)))
        return self._results.read(batch)

    def _advance(self, records: Sequence[ScheduledSequence]) -> None:
        """The decodes of the last batch again, each with its next token."""
        count = len(records)
        contexts = [record.start for record in records]
        self._token_ids.view[:count] = array("i", [record.token_ids[0] for record in records])
        self._contexts.view[:count] = array("i", contexts)
        self._sampling.positions[:count] = array("Q", [start + 1 for start in contexts])
        for place, (start, covered) in enumerate(zip(contexts, self._covered, strict=True)):
            if start >= covered:
                self._write_table(place, records[place], covered)

    def _follow(self, records: Sequence[ScheduledSequence], before: StepBuffers | None) -> None:
        """Where the tokens come from that the step before chooses: from logit rows of it."""
        places = [record.follows for record in records]
        if before is None or max(places, default=-1) < 0:
            self.batch.follows = None
            return
        if not self._only_decodes:
            places = list(chain.from_iterable([each.follows] * len(each.token_ids) for each in records))
        if not before._only_decodes:
            choices = before._choices
            places = [-1 if place < 0 else choices[place] for place in places]
        self._follows.view[: len(places)] = array("i", places)
        self.batch.follows = self._follows.address

    def _lay_out(self, records: Sequence[ScheduledSequence]) -> None:
        """A batch of any kind."""
        known, rows, covered = self._known, self._rows, self._covered
        # If this fails half-way, nothing of the last batch may be reused.
        self._known, self._rows, self._choices, self._covered, self._only_decodes = [], [], [], [], False
        token_ids, starts, contexts, logit_rows = array("i"), array("i", [0]), array("i"), array("i")
        for place, record in enumerate(records):
            first, row = len(token_ids), len(logit_rows)
            token_ids.extend(record.token_ids)
            starts.append(len(token_ids))
            contexts.append(record.start)
            again = place < len(known) and record is known[place]
            if again and row == rows[place]:
                self._sampling.positions[row] = record.start + 1
            elif self._chooses:
                self._write_rows(row, record)
            logit_rows.extend(range(first, first + len(record.prompt_targets)))
            if record.sample_last:
                logit_rows.append(len(token_ids) - 1)
            self._rows.append(row)
            self._choices.append(len(logit_rows) - 1)
            self._covered.append(0)
            self._write_table(place, record, covered[place] if again else 0)
        self._token_ids.view[: len(token_ids)] = token_ids
        if self._has_types:
            self._token_types.view[: len(token_ids)] = array("i", chain.from_iterable(map(_token_types, records)))
        self._starts.view[: len(starts)] = starts
        self._contexts.view[: len(contexts)] = contexts
        self._logit_rows.view[: len(logit_rows)] = logit_rows
        self.batch.num_sequences = len(contexts)
        self.batch.num_tokens = len(token_ids)
        self.batch.num_logit_rows = len(logit_rows)
        self._known = [record if _is_plain_decode(record) else None for record in records]
        self._only_decodes = all(self._known)
        self._scores = any(record.sampling and record.sampling.num_logprobs >= 0 for record in records)

    def _write_rows(self, row: int, record: ScheduledSequence) -> None:
        for offset, target in enumerate(record.prompt_targets, start=1):
            self._sampling.score(row, record.start + offset, target, record.prompt_num_logprobs)
            row += 1
        if record.sample_last:
            self._sampling.choose(row, record)

    def _write_table(self, place: int, record: ScheduledSequence, covered: int) -> None:
        """The blocks behind those that hold the first `covered` tokens."""
        written = covered // self._tokens_per_block
        blocks = array("i", record.block_table[written:])
        self._covered[place] = (written + len(blocks)) * self._tokens_per_block
        # A table that is too short ends in no block, and not in those of an older one.
        if written + len(blocks) < self._max_blocks:
            blocks.append(_NO_BLOCK)
        elif written + len(blocks) > self._max_blocks:
            raise ValueError("the block table is longer than max_seq_len needs")
        first = place * self._max_blocks + written
        self._tables.view[first : first + len(blocks)] = blocks


def _token_types(record: ScheduledSequence) -> Sequence[int]:
    return record.token_types or bytes(len(record.token_ids))


def _is_plain_decode(record: ScheduledSequence) -> bool:
    """One token in, one out, and only the position changes in the sampling of the next one."""
    return (
        len(record.token_ids) == 1
        and record.sample_last
        and record.sampling is not None
        and not (record.sampling.needs_history or record.banned or record.allowed or record.prompt_targets)
    )
