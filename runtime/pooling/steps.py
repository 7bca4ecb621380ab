"""One step of an engine that pools: whole texts packed one behind the other, without padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from inflight.runtime.executors.base import PoolingExecutor
from inflight.runtime.pooling.dense import load_dense
from inflight.runtime.pooling.texts import TokenizedText, pooling_facts
from inflight.runtime.pooling.vectors import Floats, as_normalized, of_tokens, pooled
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch

# The last row of a text is asked for as that of a token to choose, though none is chosen.
_UNUSED = RowSampling()
_OF_ONE_ROW = ("cls", "last")


class TextSteps:
    """Runs texts on `executor`. Blocks of the KV cache hold the keys and values of a text for its one step, so that
    none is kept, and what a text becomes does not depend on the others of its step (target cpu)."""

    def __init__(self, executor: PoolingExecutor) -> None:
        self.facts = pooling_facts(executor.manifest)
        self.limits = executor.manifest.limits
        self._executor = executor
        self._dense = load_dense(executor.directory, self.facts)
        self._block_size = executor.manifest.kv_cache.tokens_per_block

    def count_fitting(self, texts: Iterable[TokenizedText]) -> int:
        """How many of the first of `texts` one step takes; the first always fits."""
        count = tokens = blocks = rows = 0
        for text in texts:
            tokens += len(text.token_ids)
            rows += len(text.token_ids) if self._pooling(text) not in _OF_ONE_ROW else 1
            blocks += self._blocks(text)
            over = tokens > self.limits.max_num_tokens or blocks > self._executor.num_blocks
            over = over or rows > self.limits.max_logit_rows
            if count == self.limits.max_batch_size or over:
                break
            count += 1
        return count

    def run(self, texts: Sequence[TokenizedText], normalize: Sequence[bool | None] = ()) -> list[Floats]:
        """A vector, or scores, of each of `texts`, which are as many as fit; of one of whose tokens each is asked for,
        and of a classifier of tokens, [tokens, size]. `normalize`: of each, see `as_normalized`; empty: all are as the
        model has them. Raises EngineError."""
        sequences, first = [], 0
        for slot, text in enumerate(texts):
            sequences.append(self._sequence(slot, text, first))
            first += self._blocks(text)
        states = self._executor.states(StepBatch(sequences))
        found, row = [], 0
        for sequence, text, asked in zip(sequences, texts, normalize or [None] * len(texts), strict=True):
            end = row + sequence.num_logit_rows
            make = of_tokens if self._pooling(text) == "none" else pooled
            found.append(make(states[row:end], as_normalized(self.facts, asked), self._dense))
            row = end
        return found

    def close(self) -> None:
        self._executor.close()

    def _blocks(self, text: TokenizedText) -> int:
        return -(-len(text.token_ids) // self._block_size)

    def _pooling(self, text: TokenizedText) -> str:
        return "none" if text.each_token else self.facts.pooling

    def _sequence(self, slot: int, text: TokenizedText, first: int) -> ScheduledSequence:
        ids, pooling = text.token_ids, self._pooling(text)
        last = pooling == "last"
        targets = () if last else ids[:1] if pooling == "cls" else ids
        return ScheduledSequence(
            slot=slot,
            token_ids=ids,
            start=0,
            block_table=range(first, first + self._blocks(text)),
            sampling=_UNUSED if last else None,
            sample_last=last,
            prompt_length=len(ids),
            prompt_targets=targets,
            prompt_num_logprobs=-1 if last else 0,
            token_types=text.token_types,
        )
