"""The transformers target's executor: the model as it is, one sequence after another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.engine_format.manifest import EngineManifest
from inflight.engine_format.transformers_facts import MODEL_DIRECTORY, TransformersFacts
from inflight.errors import EngineError
from inflight.extras import install_hint, needs
from inflight.runtime.executors.batch_check import check_batch
from inflight.runtime.executors.host_sampling import sequence_result
from inflight.runtime.executors.transformers.token_pool import TokenPool
from inflight.runtime.loading.target_facts import read_target_facts
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch, StepOutput

if TYPE_CHECKING:
    from inflight.engine_format.transformers_model import TransformersModel

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(slots=True)
class _Held:
    """The cache of the tokens that `blocks` held when it was made."""

    token_ids: list[int]
    blocks: list[int]
    cache: Any


class TransformersExecutor:
    """A verified engine directory of target `transformers`; see Executor.

    The blocks of the pool hold the token ids of their positions, which are all that a sequence can be computed from;
    the cache of a slot is kept until another sequence has one of its blocks, and made again where there is none for the
    tokens before a chunk. So caches take what the pool stands for, and nobody has to tell when a sequence is dropped.
    Raises EngineError when torch is missing or transformers cannot load the model.
    """

    def __init__(self, directory: Path, manifest: EngineManifest, num_blocks: int, threads: int) -> None:
        facts = read_target_facts(manifest, TransformersFacts, directory)
        self.manifest = manifest
        self.num_blocks = num_blocks
        with needs("Target transformers", install_hint("transformers")):
            from inflight.engine_format.transformers_model import TransformersModel
        self._threads = threads
        self._model: TransformersModel | None = TransformersModel(directory / MODEL_DIRECTORY, manifest.model.dtype)
        if self._model.vocab_size != manifest.model.vocab_size:
            raise EngineError(
                f"The model in {directory} is not the one that the manifest describes.", "Build it again."
            )
        self._longest = 1 if facts.continues == "tokens" else manifest.limits.max_num_tokens
        self._pool = TokenPool(num_blocks, manifest.kv_cache.tokens_per_block)
        self._held: dict[int, _Held] = {}

    def execute(self, batch: StepBatch) -> StepOutput:
        return self.execute_with_logits(batch)[0]

    def execute_with_logits(self, batch: StepBatch) -> tuple[StepOutput, Floats]:
        """As execute(), and the logits [logit rows, vocab_size] before any adjustment."""
        if self._model is None:
            raise EngineError("The engine is closed.")
        check_batch(batch, self.manifest, self.num_blocks)
        self._model.use_threads(self._threads)
        for sequence in batch.sequences:
            self._pool.write(sequence.block_table, sequence.start, sequence.token_ids)
        self._drop_overwritten(batch)
        logits = [self._run(self._model, sequence) for sequence in batch.sequences]
        output = StepOutput.of([sequence_result(*pair) for pair in zip(batch.sequences, logits, strict=True)])
        return output, np.concatenate(logits)

    def close(self) -> None:
        self._model = None
        self._held.clear()

    def _drop_overwritten(self, batch: StepBatch) -> None:
        """Drop the caches whose blocks are another sequence's now: those of sequences that ended or were preempted."""
        owners = {block: sequence.slot for sequence in batch.sequences for block in sequence.block_table}
        for slot, held in list(self._held.items()):
            if any(owners.get(block, slot) != slot for block in held.blocks):
                del self._held[slot]

    def _run(self, model: TransformersModel, sequence: ScheduledSequence) -> Floats:
        """The wanted logit rows of one sequence: [num_logit_rows, vocab_size]."""
        start, blocks = sequence.start, list(sequence.block_table)
        token_ids = self._pool.read(blocks, start) + list(sequence.token_ids)
        held = self._held.pop(sequence.slot, None)
        cache = None if held is None or held.token_ids != token_ids[:start] else held.cache
        del held
        if cache is None and start > 0:
            _, cache = self._advance(model, token_ids[:start], 0, None, last_row=True)
        only_last = not sequence.prompt_targets
        logits, cache = self._advance(model, token_ids, start, cache, last_row=only_last)
        self._held[sequence.slot] = _Held(token_ids, blocks, cache)
        rows = [*range(len(sequence.prompt_targets)), *([-1] if sequence.sample_last else [])]
        return logits[rows]

    def _advance(
        self, model: TransformersModel, token_ids: list[int], start: int, cache: Any, *, last_row: bool
    ) -> tuple[Floats, Any]:
        """Compute token_ids[start:] in pieces that the model takes; see TransformersModel.continued."""
        found: list[Floats] = []
        while start < len(token_ids):
            size = self.manifest.limits.max_num_tokens if start == 0 else self._longest
            end = min(start + size, len(token_ids))
            logits, cache = model.continued(token_ids[:end], start, cache, last_row=last_row)
            found.append(logits)
            start = end
        return found[-1] if last_row else np.concatenate(found), cache
