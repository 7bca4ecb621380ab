"""The builder: two matrices of the checkpoint in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inflight.build.target import BuildFacts
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.engine_format.manifest import KvCacheFacts, MemoryPlan
from inflight.progress import Advance
from inflight_toy.facts import ToyFacts
from inflight_toy.target import ToyRecipe

_EMBEDDING, _HEAD = "transformer.vocab_embedding.weight", "lm_head.weight"


class ToyBuild:
    """A TargetBuild: `facts` are known before a weight is read, `write` writes the files that they name."""

    def __init__(self, checkpoint: Checkpoint, recipe: ToyRecipe) -> None:
        self._checkpoint = checkpoint
        self._own = ToyFacts(weights_file="toy.npy", scale=recipe.scale)
        config, limits = checkpoint.config, recipe.limits
        self.facts = BuildFacts(
            own=self._own,
            recipe=recipe,
            # Nothing is cached; the scheduler counts blocks all the same.
            kv_cache=KvCacheFacts(
                dtype="float32", tokens_per_block=recipe.tokens_per_block, bytes_per_block=1, layout="nothing"
            ),
            precision={},
            memory=MemoryPlan(
                weights_bytes=2 * 4 * config.vocab_size * config.hidden_size,
                workspace_bytes=4 * limits.max_logit_rows * config.vocab_size,
            ),
            tools={"numpy": np.__version__},
        )

    def write(self, directory: Path, advance: Advance) -> None:
        tensors = self._checkpoint.tensors
        embedding = self._checkpoint.array(_EMBEDDING)
        head = self._checkpoint.array(_HEAD) if _HEAD in tensors else embedding
        np.save(directory / self._own.weights_file, np.stack([embedding, head]))
        advance(self.facts.memory.weights_bytes)
