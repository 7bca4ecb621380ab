"""What builder and executor tell each other, under `target_facts` of the manifest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from inflight.engine_format.target_facts import TargetFacts


class ToyFacts(TargetFacts, frozen=True, kw_only=True):
    """weights_file: embedding and head, [2, vocab_size, hidden_size]. scale: what logits are multiplied by."""

    interface: ClassVar[int] = 1

    weights_file: str
    scale: float

    def loaded_files(self) -> Iterable[str]:
        return (self.weights_file,)
