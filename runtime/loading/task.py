"""What an engine is for."""

from __future__ import annotations

from inflight.engine_format.manifest import OUTPUTS, EngineManifest, PoolingFacts
from inflight.errors import EngineError


def refuse_pooling(manifest: EngineManifest) -> None:
    """Raises EngineError for an engine that makes embeddings or scores, where text is to be generated."""
    if isinstance(manifest.pooling, PoolingFacts):
        raise EngineError(
            f"This engine makes {OUTPUTS[manifest.pooling.task]}; it generates no text and has no logits.",
            "Build one from a model that generates text; or use LLM.embed, score and classify, /v1/embeddings, "
            "/v1/rerank and /classify (inflight serve).",
        )
