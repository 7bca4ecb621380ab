"""What an engine is for."""

from __future__ import annotations

from inflight.engine_format.manifest import OUTPUTS, EngineManifest, PoolingFacts
from inflight.errors import EngineError, RequestError

# What engines that pool do, and the methods of LLM and the routes of a server that ask for it.
DOES = {
    "embed": "makes vectors of texts",
    "score": "scores pairs of texts",
    "classify": "classifies texts",
    "token_classify": "classifies single tokens",
}
_CALLS = {
    "embed": "LLM.embed or LLM.score, or POST /v1/embeddings, /score or /v1/rerank",
    "score": "LLM.score or LLM.classify, or POST /score, /v1/rerank or /classify",
    "classify": "LLM.classify, or POST /classify",
    "token_classify": "LLM.encode, or POST /pooling",
}


def refuse_pooling(manifest: EngineManifest) -> None:
    """Raises EngineError for an engine that makes embeddings or scores, where text is to be generated."""
    if isinstance(manifest.pooling, PoolingFacts):
        task = manifest.pooling.task
        raise EngineError(
            f"This engine makes {OUTPUTS[task]}; it generates no text and has no logits.",
            f"Build one from a model that generates text; or use {_CALLS[task]} (inflight serve).",
        )


def other_task(facts: PoolingFacts) -> RequestError:
    """For a call of an engine that pools which asks for something else than it does."""
    return RequestError(f"This engine {DOES[facts.task]}, and nothing else.", f"Use {_CALLS[facts.task]}.")
