"""What sentence-transformers itself makes of models that it saved, where it is installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inflight.runtime import LLM
from tests.models.families.pooled import save_cross_encoder, save_embedding_model
from tests.models.tiny_tokenizers import random_text
from tests.pipeline.families.test_pooled_texts import ERROR, built

pytestmark = pytest.mark.pipeline


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gemma3_text", "nomic_bert", "qwen3", "t5"])
def test_vectors_of_texts_are_those_of_sentence_transformers_itself(
    kind: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Where it is installed, with what it saved itself, prompts among it."""
    theirs = pytest.importorskip("sentence_transformers")
    changes = {"is_causal": None} if kind == "qwen3" else {}  # transformers does not read it
    model = save_embedding_model(tmp_path / "model", kind, rng, **changes)
    judge = theirs.SentenceTransformer(str(model.directory), device="cpu", model_kwargs={"dtype": torch.float32})
    saved = replace(model, directory=tmp_path / "saved")
    judge.max_seq_length = 20
    judge.save(str(saved.directory))
    texts = [random_text(rng) + "fox" for _ in range(5)] + ["fox " * 40]
    with LLM(built(saved, tmp_path), threads=1) as llm:
        assert llm.manifest.limits.max_seq_len == 20
        for prompt in (None, "query"):
            found = llm.embed(texts, use_tqdm=False, prompt_name=prompt, truncate_prompt_tokens=-1)
            expected = judge.encode(texts, prompt_name=prompt, batch_size=1)
            vectors = np.array([each.outputs.embedding for each in found])
            assert np.abs(vectors - expected).max() < ERROR * max(1.0, np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "deberta-v2"])
def test_scores_are_those_of_its_cross_encoders(kind: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """What becomes of scores is in another file than transformers' own."""
    theirs = pytest.importorskip("sentence_transformers")
    model = save_cross_encoder(tmp_path / "model", kind, rng)
    judge = theirs.CrossEncoder(str(model.directory), device="cpu", activation_fn=torch.nn.Identity())
    saved = replace(model, directory=tmp_path / "saved")
    judge.max_seq_length = 20
    judge.save(str(saved.directory))
    texts = [random_text(rng) + "fox" for _ in range(5)] + ["fox " * 40]
    with LLM(built(saved, tmp_path), threads=1) as llm:
        assert llm.manifest.limits.max_seq_len == 20
        found = [each.outputs.score for each in llm.score("a dog", texts, use_tqdm=False, truncate_prompt_tokens=-1)]
    expected = judge.predict([("a dog", text) for text in texts])
    assert np.abs(np.array(found) - expected).max() < ERROR * max(1.0, np.abs(expected).max())
