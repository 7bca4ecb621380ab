"""What the manifest of a reference engine says beside the common facts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from inflight.engine_format.target_facts import TargetFacts

KV_LAYOUT = "layers, key and value, heads, tokens, head_size"


class ReferenceFacts(TargetFacts, frozen=True, kw_only=True):
    """network: the ONNX file, which itself names the files of its weights and tables."""

    interface: ClassVar[int] = 1

    network: str

    def loaded_files(self) -> Iterable[str]:
        return (self.network,)
