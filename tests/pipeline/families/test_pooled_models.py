"""Embeddings and scores of engines, with transformers and sentence-transformers' pooling as the judges."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.runtime.executors.base import PoolingExecutor
from inflight.runtime.loading.load import load_engine
from inflight.runtime.pooling.steps import TextSteps
from inflight.runtime.pooling.texts import TokenizedText
from tests.models.families.pooled import DECODERS, ENCODERS, PooledModel, save_cross_encoder, save_embedding_model
from tests.models.families.pooled_configs import T5_LIKE
from tests.oracles.pooling import class_scores, embed, widened

pytestmark = pytest.mark.pipeline

ERROR = 1e-4
KINDS = (*ENCODERS, *DECODERS)
# Compiling is most of the time: some always, all with --slow.
COMPILED = [
    kind if kind in ("bert", "qwen3", "deberta-v2") else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS
]
# In bfloat16 beside BERT: one of each kind of norms, positions and heads.
_HALF = (
    *("qwen3", "gemma3_text", "nomic_bert", "gte", "albert", "eurobert", "modernbert", "mt5", "umt5", "deberta"),
    "deberta-v2",
)
SCORING = (
    *("bert", "roberta", "distilbert", "electra", "mpnet", "modernbert", "albert", "nomic_bert", "gte"),
    *("jina_embeddings_v3", "eurobert", "qwen3", "deberta", "deberta-v2"),
)


def built(root: Path, model: PooledModel, options: ConvertOptions | None = None, **recipe: Any) -> Path:
    convert_model(model.directory, root / "checkpoint", options or ConvertOptions())
    build_engine(root / "checkpoint", root / "engine", make_recipe(**recipe))
    return root / "engine"


def opened(engine: Path, threads: int | None = None) -> TextSteps:
    return TextSteps(cast(PoolingExecutor, load_engine(engine, threads=threads)))


def vectors(steps: TextSteps, texts: list[TokenizedText]) -> npt.NDArray[np.float64]:
    found: list[Any] = []
    while len(found) < len(texts):
        found += steps.run(texts[len(found) : len(found) + steps.count_fitting(texts[len(found) :])])
    return np.asarray(np.stack(found), np.float64)


def random_texts(model: PooledModel, rng: np.random.Generator) -> list[list[int]]:
    return [model.random_ids(rng, int(length)) for length in (1, 100, *rng.integers(1, 101, 6))]


def check(model: PooledModel, engine: Path, rng: np.random.Generator) -> None:
    texts = random_texts(model, rng)
    steps = opened(engine)
    found = vectors(steps, [TokenizedText(tuple(text)) for text in texts])
    steps.close()
    assert model.pooling is not None
    expected = embed(widened(model.model), texts, model.pooling, model.normalize, model.dense)
    assert np.abs(found - expected).max() < ERROR * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_the_reference_target_are_those_of_sentence_transformers(
    kind: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    model = save_embedding_model(tmp_path / "model", kind, rng)
    check(model, built(tmp_path, model, target="reference", max_num_tokens=150), rng)


def test_of_an_encoder_with_its_decoder_the_encoder_is_taken(tmp_path: Path, rng: np.random.Generator) -> None:
    """As flan-t5 is downloaded, beside the files of sentence-transformers."""
    model = save_embedding_model(tmp_path / "model", "t5", rng, feed_forward_proj="gated-gelu")
    config = copy.deepcopy(model.model.config)
    config.is_encoder_decoder, config.num_decoder_layers = True, 1
    both = transformers.T5ForConditionalGeneration._from_config(config, dtype=torch.float32)
    both.load_state_dict(model.model.state_dict(), strict=False)
    both.save_pretrained(tmp_path / "model")
    notes = convert_model(model.directory, tmp_path / "checkpoint")
    assert any("tensors decoder.* are left out" in note for note in notes)
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", make_recipe(target="reference", max_num_tokens=150))
    check(model, tmp_path / "engine", rng)


@pytest.mark.parametrize("kind", COMPILED)
def test_vectors_of_the_cpu_target_are_those_of_sentence_transformers_whatever_the_company(
    kind: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    model = save_embedding_model(tmp_path / "model", kind, rng)
    engine = built(tmp_path, model, max_num_tokens=150, max_batch_size=4)
    check(model, engine, rng)
    texts = [TokenizedText(tuple(text)) for text in random_texts(model, rng)]
    together, alone = opened(engine, threads=1), opened(engine, threads=3)
    expected = vectors(together, texts)
    order = rng.permutation(len(texts))
    np.testing.assert_array_equal(vectors(alone, [texts[index] for index in order]), expected[order])
    np.testing.assert_array_equal(np.concatenate([vectors(alone, [text]) for text in texts]), expected)
    together.close()
    alone.close()


@pytest.mark.parametrize("kind", ["bert", *(pytest.param(kind, marks=pytest.mark.slow) for kind in _HALF)])
def test_bfloat16_is_no_worse_than_1_5_times_the_error_of_transformers(
    kind: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    layers: dict[str, Any] = {"num_layers" if kind in T5_LIKE else "num_hidden_layers": 3}
    model = save_embedding_model(tmp_path / "model", kind, rng, dtype=torch.bfloat16, **layers)
    if kind == "bert":
        model = save_embedding_model(tmp_path / "other", kind, rng, dtype=torch.bfloat16, hidden_act="gelu")
    steps = opened(built(tmp_path, model))
    texts = [model.random_ids(rng, int(length)) for length in rng.integers(20, 101, 12)]
    found = vectors(steps, [TokenizedText(tuple(text)) for text in texts])
    steps.close()
    assert model.pooling is not None
    exact, own = (
        embed(each, texts, model.pooling, model.normalize, model.dense) for each in (widened(model.model), model.model)
    )
    assert np.sqrt(np.mean((found - exact) ** 2)) <= 1.5 * np.sqrt(np.mean((own - exact) ** 2))


def test_int8_weights_are_those_of_the_reference_target(tmp_path: Path, rng: np.random.Generator) -> None:
    model = save_embedding_model(tmp_path / "model", "bert", rng)
    options = ConvertOptions(quantize="int8_wo")
    texts = [TokenizedText(tuple(text)) for text in random_texts(model, rng)]
    found = []
    for target in ("reference", "cpu"):
        (tmp_path / target).mkdir()
        steps = opened(built(tmp_path / target, model, options, target=target))
        found.append(vectors(steps, texts))
        steps.close()
    assert np.abs(found[0] - found[1]).max() < ERROR * max(1.0, np.abs(found[0]).max())
    assert model.pooling is not None
    plain = embed(
        widened(model.model), [list(text.token_ids) for text in texts], model.pooling, model.normalize, model.dense
    )
    assert 1e-6 < np.sqrt(np.mean((found[0] - plain) ** 2)) < 0.1 * np.sqrt(np.mean(plain**2))


@pytest.mark.parametrize("kind", SCORING)
@pytest.mark.parametrize("target", ["reference", pytest.param("cpu", marks=pytest.mark.slow)])
def test_scores_are_those_of_transformers(kind: str, target: str, tmp_path: Path, rng: np.random.Generator) -> None:
    check_scores(kind, target, tmp_path, rng)


def test_compiled_scores_are_those_of_transformers(tmp_path: Path, rng: np.random.Generator) -> None:
    check_scores("bert", "cpu", tmp_path, rng)


def check_scores(kind: str, target: str, root: Path, rng: np.random.Generator) -> None:
    model = save_cross_encoder(root / "model", kind, rng, num_labels=int(rng.choice([1, 3])))
    steps = opened(built(root, model, target=target, max_batch_size=4))
    pairs = []
    for first, second in rng.integers(1, 50, (7, 2)).tolist():
        types = (0,) * first + (1,) * second if steps.facts.token_types > 1 else ()
        pairs.append(TokenizedText(tuple(model.random_ids(rng, first + second)), types))
    found = vectors(steps, pairs)
    steps.close()
    ids, types = [pair.token_ids for pair in pairs], [pair.token_types for pair in pairs]
    expected = class_scores(widened(model.model), ids, types)
    assert found.shape == expected.shape and steps.facts.task == ("score" if expected.shape[1] == 1 else "classify")
    assert np.abs(found - expected).max() < ERROR * max(1.0, np.abs(expected).max())
