"""Vectors and classes of single tokens, with transformers as the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.errors import BuildError, ModelError, RequestError
from inflight.runtime import LLM, PoolingParams
from tests.models.families.pooled import (
    ENCODERS,
    PooledModel,
    save_cross_encoder,
    save_embedding_model,
    save_token_classifier,
    write_json,
)
from tests.models.families.pooled_configs import T5_LIKE
from tests.models.tiny_tokenizers import random_text
from tests.network.support import chosen, some_of
from tests.oracles.pooling import widened

pytestmark = pytest.mark.pipeline

ERROR = 1e-4
KINDS = [kind for kind in (*ENCODERS, "qwen3", "llama") if kind not in T5_LIKE]
# Beside BERT: a head of several products, a table of positions that begins behind padding, and a decoder.
_COMPILED = ("modernbert", "roberta", "qwen3")
Rows = npt.NDArray[np.float64]


def built(model: PooledModel, root: Path, target: str = "reference", **recipe: Any) -> Path:
    convert_model(model.directory, root / "checkpoint")
    build_engine(root / "checkpoint", root / "engine", make_recipe(target, **recipe))
    return root / "engine"


def transformers_rows(model: PooledModel, ids: list[int]) -> Rows:
    """What transformers makes of each token: logits of labels, or the last hidden state."""
    wide, seen = widened(model.model), torch.ones(1, len(ids), dtype=torch.int64)
    if getattr(wide.config, "is_causal", None) is False:
        seen = torch.zeros(1, 1, len(ids), len(ids), dtype=torch.float64)
    with torch.no_grad():
        made = wide(input_ids=torch.tensor([ids]), attention_mask=seen)
    return np.asarray((made.logits if hasattr(made, "logits") else made.last_hidden_state)[0])


def softmax(raw: Rows) -> Rows:
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def check_classes(model: PooledModel, engine: Path, rng: np.random.Generator, error: float = ERROR) -> None:
    texts = [random_text(rng) + "fox" for _ in range(5)] + ["a"]
    with LLM(engine, threads=1, task="token_classify") as llm:
        shares = llm.encode(texts, use_tqdm=False)
        bare = llm.encode(texts, PoolingParams(use_activation=False), pooling_task="token_classify", use_tqdm=False)
        (of_ids,) = llm.encode([list(shares[0].prompt_token_ids)], use_tqdm=False)
        for call in (lambda: llm.embed("a"), lambda: llm.classify("a"), lambda: llm.score("a", "b")):
            with pytest.raises(RequestError, match=r"classifies single tokens(.|\n)*Use LLM.encode, or POST /pooling"):
                cast(Any, call)()
        with pytest.raises(RequestError, match="task is 'token_embed'; this engine classifies single tokens"):
            llm.encode("a", pooling_task="token_embed")
    assert of_ids.outputs.data.tolist() == shares[0].outputs.data.tolist()
    for one, raw in zip(shares, bare, strict=True):
        expected = transformers_rows(model, list(one.prompt_token_ids))
        assert one.outputs.data.shape == raw.outputs.data.shape == expected.shape
        assert np.abs(raw.outputs.data - expected).max() < error * max(1.0, np.abs(expected).max())
        assert np.abs(one.outputs.data - softmax(expected)).max() < error


@pytest.mark.parametrize("drawn", some_of(4, KINDS))
def test_tokens_get_the_classes_of_transformers(drawn: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    kind = str(chosen(drawn, rng))
    model = save_token_classifier(tmp_path / "model", kind, rng)
    check_classes(model, built(model, tmp_path), rng)


@pytest.mark.parametrize("kind", ["bert", *(pytest.param(kind, marks=pytest.mark.slow) for kind in _COMPILED)])
def test_so_they_do_compiled(kind: str, tmp_path: Path, rng: np.random.Generator) -> None:
    model = save_token_classifier(tmp_path / "model", kind, rng)
    check_classes(model, built(model, tmp_path, "cpu", max_batch_size=3), rng)


def expected_vectors(model: PooledModel, ids: list[int], normalize: bool) -> Rows:
    rows = torch.tensor(transformers_rows(model, ids))
    for weight, bias, activation in model.dense:
        rows = torch.nn.functional.linear(rows, weight.double(), None if bias is None else bias.double())
        rows = getattr(torch.nn, activation)()(rows)
    return np.asarray(torch.nn.functional.normalize(rows, p=2, dim=1) if normalize else rows)


def test_tokens_have_vectors_beside_those_of_texts(tmp_path: Path, rng: np.random.Generator) -> None:
    kind = str(rng.choice(["bert", "roberta", "modernbert", "t5", "qwen3", "gemma3_text"]))
    model = save_embedding_model(tmp_path / "model", kind, rng)
    first = model.pooling in ("cls", "lasttoken")
    # The rows of all tokens have a place where they are all pooled, or where it was asked for.
    rows = 150 if first else None
    engine = built(model, tmp_path, max_num_tokens=150, max_batch_size=4, max_logit_rows=rows)
    texts = [random_text(rng) + "fox" for _ in range(5)]
    with LLM(engine, threads=1, task="token_embed") as llm:
        found = llm.encode(texts, pooling_task="token_embed", use_tqdm=False)
        mixed = [PoolingParams(task=task) for task in ("token_embed", "embed")]
        one, other = llm.encode(texts[:2], mixed, use_tqdm=False)
        cut = PoolingParams(dimensions=3, normalize=True, truncate_prompt_tokens=4)
        (short,) = llm.encode(texts[0], cut, pooling_task="token_embed", use_tqdm=False)
        whole = llm.embed(texts, use_tqdm=False)
        with pytest.raises(RequestError, match="task is 'token_embed'"):
            llm.embed("a", pooling_params=PoolingParams(task="token_embed"))
        with pytest.raises(RequestError, match="task is 'token_classify'"):
            llm.encode("a", pooling_task="token_classify")
        with pytest.raises(RequestError, match="task is given twice"):
            llm.encode("a", PoolingParams(task="embed"), pooling_task="token_embed")
    for text in found:
        expected = expected_vectors(model, list(text.prompt_token_ids), model.normalize)
        assert text.outputs.data.shape == expected.shape and text.outputs.data.dtype == np.float32
        assert np.abs(text.outputs.data - expected).max() < ERROR * max(1.0, np.abs(expected).max())
    assert one.outputs.data.tolist() == found[0].outputs.data.tolist()
    assert other.outputs.data.tolist() == whole[1].outputs.embedding
    cuts = expected_vectors(model, list(short.prompt_token_ids), False)[:, :3]
    cuts /= np.maximum(np.linalg.norm(cuts, axis=1, keepdims=True), 1e-12)
    assert short.outputs.data.shape == (4, 3) and np.abs(short.outputs.data - cuts).max() < 1e-3


def test_engines_without_room_for_all_rows_say_so(tmp_path: Path, rng: np.random.Generator) -> None:
    model = save_embedding_model(tmp_path / "model", "bert", rng, pooling="cls")
    alone = r"(?s)of the first token of a text alone.*--max-logit-rows"
    with LLM(built(model, tmp_path), threads=1) as llm, pytest.raises(RequestError, match=alone):
        llm.encode("a", pooling_task="token_embed")
    with pytest.raises(BuildError, match=r"--max-logit-rows 77: .* or 1024 \(max_num_tokens\) for vectors of single"):
        build_engine(tmp_path / "checkpoint", tmp_path / "other", make_recipe("reference", max_logit_rows=77))
    model = save_cross_encoder(tmp_path / "scores", "bert", rng)
    (tmp_path / "2").mkdir()
    with LLM(built(model, tmp_path / "2"), threads=1) as llm, pytest.raises(RequestError, match="task is 'token_"):
        llm.encode("a", pooling_task="token_classify")


def test_scores_by_tokens_are_no_classes_of_tokens(tmp_path: Path, rng: np.random.Generator) -> None:
    save_token_classifier(tmp_path / "model", "llama", rng)
    with pytest.raises(ModelError, match="scores by tokens are those of a model that generates"):
        convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(score_tokens=("the", "fox")))


def test_heads_that_are_not_read_are_refused_by_name(tmp_path: Path, rng: np.random.Generator) -> None:
    model = save_embedding_model(tmp_path / "model", "t5", rng, pooling="mean")
    for path in ("modules.json", "sentence_bert_config.json"):
        (model.directory / path).unlink()
    config = model.model.config.to_dict()
    write_json(model.directory / "config.json", {**config, "architectures": ["T5ForTokenClassification"]})
    with pytest.raises(ModelError, match="classifiers of t5 are not supported: how they end is not read"):
        convert_model(model.directory, tmp_path / "checkpoint")
