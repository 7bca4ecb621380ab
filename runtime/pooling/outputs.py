"""What embedding and scoring return, in the shape that vLLM's users know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """The vector of a text."""

    embedding: list[float]


@dataclass(frozen=True, slots=True)
class EmbeddingRequestOutput:
    """One text's output, with the token ids that the engine saw."""

    request_id: str
    outputs: EmbeddingOutput
    prompt_token_ids: tuple[int, ...]
    finished: bool = True


@dataclass(frozen=True, slots=True)
class ScoringOutput:
    """The score of a pair of texts."""

    score: float


@dataclass(frozen=True, slots=True)
class ScoringRequestOutput:
    """One pair's output, with the token ids that the engine saw."""

    request_id: str
    outputs: ScoringOutput
    prompt_token_ids: tuple[int, ...]
    finished: bool = True
