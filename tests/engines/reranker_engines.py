"""Engines of models that score pairs by tokens, and what they say of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.runtime import LLM
from tests.models.families.rerankers import Reranker


def built(model: Reranker, root: Path, tokens: tuple[str, ...] = (), target: str = "reference", **recipe: Any) -> Path:
    convert_model(model.directory, root / "checkpoint", ConvertOptions(score_tokens=tokens))
    build_engine(root / "checkpoint", root / "engine", make_recipe(target, **recipe))
    return root / "engine"


def scores(llm: LLM, query: str, documents: list[str], **options: Any) -> tuple[list[float], list[list[int]]]:
    """And the token ids that were seen."""
    found = llm.score(query, documents, use_tqdm=False, **options)
    return [each.outputs.score for each in found], [list(each.prompt_token_ids) for each in found]
