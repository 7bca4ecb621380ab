"""What the manifest of a transformers engine says beside the common facts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, TypeAlias

from inflight.engine_format.target_facts import TargetFacts

MODEL_DIRECTORY = "model"
CACHE_LAYOUT = "a transformers cache for each sequence; blocks hold its token ids"

Continues: TypeAlias = Literal["chunks", "tokens"]


class TransformersFacts(TargetFacts, frozen=True, kw_only=True):
    """model_files: config.json and the weights, in the folder `model`. continues: after the first piece of a sequence,
    transformers' cache takes chunks of several tokens, or single ones alone.
    """

    interface: ClassVar[int] = 1

    model_files: tuple[str, ...]
    continues: Continues

    def loaded_files(self) -> Iterable[str]:
        return self.model_files
