"""The arrays through which a step enters and leaves a compiled engine: allocated once, refilled every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from inflight.runtime.executors.cpu_abi import MAX_TOP_LOGPROBS, SAMPLING, Batch, Output
from inflight.runtime.manifest import EngineManifest
from inflight.runtime.step import RowSampling, ScheduledSequence, SequenceResult, StepBatch, StepOutput, TokenResult

_GREEDY = RowSampling()
_FREE_CHOICE = -1  # inflight_sampling.target of a row that chooses its token


class StepBuffers:
    """Fills `inflight_batch` from a StepBatch and reads `inflight_output` into a StepOutput."""

    def __init__(self, manifest: EngineManifest) -> None:
        limits = manifest.limits
        self._vocab_size = manifest.model.vocab_size
        max_blocks = -(-limits.max_seq_len // manifest.kv_cache.tokens_per_block)

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
        """Copy a batch into the arrays. Raises ValueError or IndexError when it does not fit them.

        Values are not looked at: the engine checks token ids, blocks and lengths itself.
        """
        self._alive.clear()
        token_ids: list[int] = []
        starts, contexts, logit_rows = [0], [], []
        sampling: list[tuple[float, ...]] = []
        for index, sequence in enumerate(batch.sequences):
            first = len(token_ids)
            token_ids.extend(sequence.token_ids)
            starts.append(len(token_ids))
            contexts.append(sequence.start)
            self._block_tables[index] = -1  # a table that is too short must not end in an older one's blocks
            self._block_tables[index, : len(sequence.block_table)] = sequence.block_table
            for offset, target in enumerate(sequence.prompt_targets):
                logit_rows.append(first + offset)
                position = sequence.start + offset + 1
                sampling.append(_record(_GREEDY, position, target, sequence.prompt_num_logprobs))
            if sequence.sample_last:
                logit_rows.append(len(token_ids) - 1)
                sampling.append(self._choice(sequence))
        self._token_ids[: len(token_ids)] = token_ids
        self._starts[: len(starts)] = starts
        self._contexts[: len(contexts)] = contexts
        self._logit_rows[: len(logit_rows)] = logit_rows
        self._sampling[: len(sampling)] = sampling
        self.batch.num_sequences = len(contexts)
        self.batch.num_tokens = len(token_ids)
        self.batch.num_logit_rows = len(logit_rows)

    def read(self, batch: StepBatch) -> StepOutput:
        """The results of the step that `batch` filled."""
        tokens = self._tokens[: self.batch.num_logit_rows].tolist()
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
        count = min(num_logprobs, MAX_TOP_LOGPROBS, self._vocab_size)
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
        array = np.array(values, dtype)  # a copy: the scheduler goes on appending to a history
        self._alive.append(array)
        return int(array.ctypes.data)


def _record(
    sampling: RowSampling, position: int, target: int, num_logprobs: int, lists: tuple[int, ...] = (0, 0, 0, 0, 0, 0)
) -> tuple[float, ...]:
    """The fields of one `inflight_sampling`, in its order. `lists` are the three pointers and the three lengths."""
    return (
        sampling.seed,
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
