"""The arrays through which a step enters and leaves a compiled engine: allocated once, refilled every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from inflight.errors import EngineError
from inflight.runtime.executors.cpu_abi import MAX_TOP_LOGPROBS, SAMPLING, Batch, Output
from inflight.runtime.manifest import EngineManifest
from inflight.runtime.step import RowSampling, ScheduledSequence, SequenceResult, StepBatch, StepOutput, TokenResult

_GREEDY = RowSampling()
_FREE_CHOICE = -1  # inflight_sampling.target of a row that chooses its token


class StepBuffers:
    """Fills `inflight_batch` from a StepBatch and reads `inflight_output` into a StepOutput."""

    def __init__(self, manifest: EngineManifest, num_blocks: int) -> None:
        limits = manifest.limits
        self._limits = limits
        self._vocab_size = manifest.model.vocab_size
        self._num_blocks = num_blocks
        self._tokens_per_block = manifest.kv_cache.tokens_per_block
        max_blocks = -(-limits.max_seq_len // self._tokens_per_block)

        self._token_ids = np.zeros(limits.max_num_tokens, np.int32)
        self._starts = np.zeros(limits.max_batch_size + 1, np.int32)
        self._contexts = np.zeros(limits.max_batch_size, np.int32)
        self._block_tables = np.zeros((limits.max_batch_size, max_blocks), np.int32)
        self._logit_rows = np.zeros(limits.max_logit_rows, np.int32)
        self._sampling = np.zeros(limits.max_logit_rows, SAMPLING)
        self._alive: list[npt.NDArray[np.generic]] = []  # what pointers in _sampling refer to

        self._tokens = np.zeros(limits.max_logit_rows, np.int32)
        self._logprobs = np.zeros(limits.max_logit_rows, np.float32)
        self._ranks = np.zeros(limits.max_logit_rows, np.int32)
        self._top_ids = np.zeros((limits.max_logit_rows, MAX_TOP_LOGPROBS), np.int32)
        self._top_logprobs = np.zeros((limits.max_logit_rows, MAX_TOP_LOGPROBS), np.float32)

        self.batch = Batch(
            block_table_stride=max_blocks,
            token_ids=self._token_ids.ctypes.data,
            sequence_starts=self._starts.ctypes.data,
            context_lengths=self._contexts.ctypes.data,
            block_tables=self._block_tables.ctypes.data,
            logit_rows=self._logit_rows.ctypes.data,
            sampling=self._sampling.ctypes.data,
        )
        self.output = Output(
            tokens=self._tokens.ctypes.data,
            logprobs=self._logprobs.ctypes.data,
            ranks=self._ranks.ctypes.data,
            top_ids=self._top_ids.ctypes.data,
            top_logprobs=self._top_logprobs.ctypes.data,
        )

    def fill(self, batch: StepBatch) -> None:
        """Copy a batch into the arrays. Raises EngineError when it breaks a limit."""
        self._check_sizes(batch)
        self._alive.clear()
        row = logit_row = 0
        for index, sequence in enumerate(batch.sequences):
            end = row + len(sequence.token_ids)
            self._token_ids[row:end] = sequence.token_ids
            self._starts[index + 1] = end
            self._contexts[index] = sequence.start
            self._block_tables[index, : len(sequence.block_table)] = sequence.block_table
            for offset, target in enumerate(sequence.prompt_targets):
                self._logit_rows[logit_row] = row + offset
                position = sequence.start + offset + 1
                self._sampling[logit_row] = _record(_GREEDY, position, target, sequence.prompt_num_logprobs)
                logit_row += 1
            if sequence.sample_last:
                self._logit_rows[logit_row] = end - 1
                self._sampling[logit_row] = self._choice(sequence)
                logit_row += 1
            row = end
        self._check_values(len(batch.sequences), row)
        self.batch.num_sequences = len(batch.sequences)
        self.batch.num_tokens = row
        self.batch.num_logit_rows = logit_row

    def read(self, batch: StepBatch) -> StepOutput:
        """The results of the step that `batch` filled."""
        tokens = self._tokens.tolist()
        results = []
        row = 0
        for sequence in batch.sequences:
            wanted = sequence.prompt_num_logprobs
            prompt = tuple(self._result(row + i, tokens[row + i], wanted) for i in range(len(sequence.prompt_targets)))
            row += len(prompt)
            sampled = None
            if sequence.sample_last:
                sampled = self._result(row, tokens[row], (sequence.sampling or _GREEDY).num_logprobs)
                row += 1
            results.append(SequenceResult(sampled, prompt))
        return StepOutput(results)

    def _result(self, row: int, token_id: int, num_logprobs: int) -> TokenResult:
        if num_logprobs < 0:
            return TokenResult(token_id)
        count = min(num_logprobs, self._vocab_size)
        top = zip(self._top_ids[row, :count].tolist(), self._top_logprobs[row, :count].tolist(), strict=True)
        return TokenResult(token_id, float(self._logprobs[row]), int(self._ranks[row]), tuple(top))

    def _choice(self, sequence: ScheduledSequence) -> tuple[float, ...]:
        sampling = sequence.sampling or _GREEDY
        history = self._pointer(sequence.history, np.int32) if sampling.needs_history else 0
        bias_ids = bias_values = num_bias = 0
        if sampling.bias or sequence.banned:
            ids = [token_id for token_id, _ in sampling.bias] + list(sequence.banned)
            values = [value for _, value in sampling.bias] + [-np.inf] * len(sequence.banned)
            bias_ids, bias_values, num_bias = self._pointer(ids, np.int32), self._pointer(values, np.float32), len(ids)
        position = sequence.start + len(sequence.token_ids)
        return _record(
            sampling,
            position,
            _FREE_CHOICE,
            sampling.num_logprobs,
            (history, bias_ids, bias_values, len(sequence.history) if history else 0, sequence.prompt_length, num_bias),
        )

    def _pointer(self, values: Sequence[float], dtype: npt.DTypeLike) -> int:
        array = np.asarray(values, dtype)
        self._alive.append(array)
        return int(array.ctypes.data)

    def _check_sizes(self, batch: StepBatch) -> None:
        limits = self._limits
        sizes = (
            ("sequences", len(batch.sequences), limits.max_batch_size),
            ("tokens", batch.num_tokens, limits.max_num_tokens),
            ("logit rows", sum(sequence.num_logit_rows for sequence in batch.sequences), limits.max_logit_rows),
        )
        for name, size, limit in sizes:
            if size > limit:
                raise EngineError(f"A step of {size} {name} breaks the engine's limit of {limit}.")
        for sequence in batch.sequences:
            end = sequence.start + len(sequence.token_ids)
            if end > limits.max_seq_len:
                raise EngineError(
                    f"Slot {sequence.slot}: {end} tokens; the engine holds {limits.max_seq_len} a sequence."
                )
            blocks = len(sequence.block_table)
            if not -(-end // self._tokens_per_block) <= blocks <= self._block_tables.shape[1]:
                raise EngineError(f"Slot {sequence.slot}: a block table of {blocks} blocks does not fit {end} tokens.")
            if not sequence.token_ids or len(sequence.prompt_targets) > len(sequence.token_ids):
                raise EngineError(f"Slot {sequence.slot}: no tokens, or more prompt targets than tokens.")

    def _check_values(self, num_sequences: int, num_tokens: int) -> None:
        # Rows of earlier batches passed this test too, so whole tables may be compared.
        tables = self._block_tables[:num_sequences]
        token_ids = self._token_ids[:num_tokens]
        if num_sequences and (tables.min() < 0 or tables.max() >= self._num_blocks):
            self._block_tables.fill(0)
            raise EngineError(f"A block table names a block outside 0 .. {self._num_blocks - 1}.")
        if num_tokens and (token_ids.min() < 0 or token_ids.max() >= self._vocab_size):
            raise EngineError(f"A token id is outside 0 .. {self._vocab_size - 1}, the model's vocabulary.")


def _record(
    sampling: RowSampling, position: int, target: int, num_logprobs: int, lists: tuple[int, ...] = (0, 0, 0, 0, 0, 0)
) -> tuple[float, ...]:
    """The fields of one `inflight_sampling`, in its order. `lists` are the three pointers and the three lengths."""
    return (
        sampling.seed & 0xFFFF_FFFF_FFFF_FFFF,
        position,
        *lists,
        target,
        min(num_logprobs, MAX_TOP_LOGPROBS),
        sampling.top_k,
        sampling.temperature,
        sampling.top_p,
        sampling.min_p,
        sampling.repetition_penalty,
        sampling.presence_penalty,
        sampling.frequency_penalty,
    )
