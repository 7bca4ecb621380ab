"""What encoding, embedding, classifying and scoring return, in the shape that vLLM's users know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class PoolingOutput:
    """float32 [size]: the vector of a text, or a classifier's numbers; of single tokens [tokens, size]."""

    data: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PoolingRequestOutput:
    """One text's output, with the token ids that the engine saw. Nothing is cached."""

    request_id: str
    outputs: PoolingOutput
    prompt_token_ids: tuple[int, ...]
    finished: bool = True
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """The vector of a text."""

    embedding: list[float]

    @property
    def hidden_size(self) -> int:
        return len(self.embedding)


@dataclass(frozen=True, slots=True)
class EmbeddingRequestOutput:
    """One text's output, with the token ids that the engine saw."""

    request_id: str
    outputs: EmbeddingOutput
    prompt_token_ids: tuple[int, ...]
    finished: bool = True
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ClassificationOutput:
    """The probabilities of the classes; that of the one label of a cross-encoder."""

    probs: list[float]

    @property
    def num_classes(self) -> int:
        return len(self.probs)


@dataclass(frozen=True, slots=True)
class ClassificationRequestOutput:
    """One text's output, with the token ids that the engine saw."""

    request_id: str
    outputs: ClassificationOutput
    prompt_token_ids: tuple[int, ...]
    finished: bool = True
    num_cached_tokens: int = 0


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
    num_cached_tokens: int = 0
