"""The executor: logits in NumPy, tokens chosen by the runtime's own reference of sampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.executors.batch_check import check_batch
from inflight.runtime.executors.host_sampling import sequence_result
from inflight.runtime.loading.target_facts import read_target_facts
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch, StepOutput
from inflight_toy.facts import ToyFacts


class ToyExecutor:
    """See Executor of inflight.runtime.executors.base."""

    def __init__(self, directory: Path, manifest: EngineManifest, num_blocks: int) -> None:
        self.manifest = manifest
        self.num_blocks = num_blocks
        facts = read_target_facts(manifest, ToyFacts, directory)
        self._scale = np.float32(facts.scale)
        self._embedding, self._head = np.load(directory / facts.weights_file)

    def execute(self, batch: StepBatch) -> StepOutput:
        check_batch(batch, self.manifest, self.num_blocks)
        return StepOutput.of([sequence_result(sequence, self._logits(sequence)) for sequence in batch.sequences])

    def close(self) -> None:
        """Nothing is held."""

    def _logits(self, sequence: ScheduledSequence) -> npt.NDArray[np.float32]:
        """[num_logit_rows, vocab_size]: those of the prompt targets, then that of the last token."""
        rows = [*range(len(sequence.prompt_targets)), *([len(sequence.token_ids) - 1] if sequence.sample_last else [])]
        tokens = np.array(sequence.token_ids)[rows]
        logits: npt.NDArray[np.float32] = self._scale * (self._embedding[tokens] @ self._head.T)
        return logits
