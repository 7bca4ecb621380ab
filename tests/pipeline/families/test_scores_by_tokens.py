"""Generators that score pairs by the logits of tokens, as Qwen3-Reranker does, beside transformers' own logits."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inflight.cli.engines.request import EngineRequest
from inflight.cli.inspect import describe
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.families.pooling.kinds import KEYS_OF_FILES
from inflight.convert.options import ConvertOptions
from inflight.errors import InflightError, ModelError, RequestError
from inflight.runtime import LLM
from tests.engines.reranker_engines import built, scores
from tests.models.families.pooled import save_cross_encoder, save_embedding_model, write_json
from tests.models.families.rerankers import (
    BEHIND,
    FRONT,
    KINDS,
    OWN_TEMPLATE,
    SEARCH,
    Reranker,
    prompt,
    save_files,
    save_reranker,
)
from tests.models.tiny_tokenizers import random_text
from tests.network.support import chosen, some_of

pytestmark = pytest.mark.pipeline

ERROR = 1e-4


def random_pairs(rng: np.random.Generator) -> tuple[str, list[str]]:
    return random_text(rng) + "fox?", [random_text(rng) + "dog" for _ in range(5)] + ["yes", "a\n"]


def described(engine: Path) -> dict[str, Any]:
    """What `inflight inspect` says of its scores."""
    found: dict[str, Any] = describe(engine, every_tensor=False)[1]["pooling"]
    return found


def near(found: list[float], raw: list[float], error: float = ERROR) -> bool:
    return bool(np.abs(np.array(found) - 1 / (1 + np.exp(-np.array(raw)))).max() < error)


@pytest.mark.parametrize("drawn", some_of(1, KINDS))
def test_a_generator_scores_behind_the_prompt_of_its_model_card(
    drawn: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    kind = str(chosen(drawn, rng))
    model, tokens = save_reranker(tmp_path / "model", kind, rng), KINDS[kind].tokens
    query, documents = random_pairs(rng)
    engine = built(model, tmp_path, tokens)
    facts = described(engine)
    assert [each["token"] for each in facts["score_tokens"]] == [*tokens]
    assert [each["id"] for each in facts["score_tokens"]] == model.tokenizer.convert_tokens_to_ids([*tokens])
    assert facts["pair_template"]["origin"].startswith("the prompt of ")
    usual = facts.get("instruction")
    # Without one, mxbai-rerank-v2 has no such line.
    assert (usual is None) == (kind == "qwen2") and prompt(kind, "a", "b", usual) == prompt(kind, "a", "b")
    with LLM(engine, threads=1) as llm:
        for asked in (None, "find the fox"):
            found, ids = scores(llm, query, documents, instruction=asked)
            assert ids == [model.ids(prompt(kind, query, document, asked)) for document in documents]
            assert near(found, model.raw_scores(ids))
        (text,) = llm.classify("fox", use_tqdm=False)
        assert near(text.outputs.probs, model.raw_scores([text.prompt_token_ids]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_so_it_does_in_bfloat16_compiled(kind: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """The difference of two rows is rounded once more than either."""
    model = save_reranker(tmp_path / "model", kind, rng, dtype=torch.bfloat16)
    query, documents = random_pairs(rng)
    with LLM(built(model, tmp_path, KINDS[kind].tokens, "cpu", max_seq_len=600), threads=2) as llm:
        found, ids = scores(llm, query, documents)
    assert near(found, model.raw_scores(ids), 0.03)


@pytest.fixture
def own(tmp_path: Path, rng: np.random.Generator) -> Reranker:
    """With the files of sentence-transformers."""
    model = save_reranker(tmp_path / "model", "qwen3", rng)
    save_files(model, max_seq_length=300)
    return model


def rendered(model: Reranker, query: str, document: str, asked: str | None = None) -> list[int]:
    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    system = [{"role": "system", "content": asked}] if asked else []
    text = model.tokenizer.apply_chat_template([*system, *messages], chat_template=OWN_TEMPLATE, tokenize=False)
    return model.ids(text)


def test_its_files_say_tokens_template_and_instruction(own: Reranker, tmp_path: Path, rng: np.random.Generator) -> None:
    prompts = {"prompts": {"animals": "Find the animal", "none": ""}, "default_prompt_name": "animals"}
    write_json(own.directory / "config_sentence_transformers.json", prompts)
    query, documents = random_pairs(rng)
    engine = built(own, tmp_path)
    facts = described(engine)
    assert [each["token"] for each in facts["score_tokens"]] == ["yes", "no"]
    assert facts["instruction"] == "Find the animal" and facts["pair_template"]["origin"] == "the model's chat template"
    EngineRequest(model=str(engine), score_tokens="yes,no").engine()
    with pytest.raises(InflightError, match=r"--score-tokens no,yes \(it has yes,no\) can only be chosen"):
        EngineRequest(model=str(engine), score_tokens=["no", "yes"]).engine()
    with LLM(engine, threads=1) as llm:
        assert llm.manifest.limits.max_seq_len == 300
        found, ids = scores(llm, query, documents)
        assert ids == [rendered(own, query, document, "Find the animal") for document in documents]
        assert near(found, own.raw_scores(ids))
        raw = [math.log(score / (1 - score)) for score in found]
        np.testing.assert_allclose(raw, own.raw_scores(ids), atol=1e-3)
        _, ids = scores(llm, query, documents, instruction="dogs")
        assert ids == [rendered(own, query, document, "dogs") for document in documents]
        # What is too long is cut in its longer text; the prompt stays.
        _, (cut,) = scores(llm, "fox", ["lazy dog " * 90 + "東京" * 40], truncate_prompt_tokens=151)
        assert len(cut) <= 151
        ends = own.ids(BEHIND)
        whole = rendered(own, "fox", "lazy dog " * 90, "Find the animal")
        assert cut[-len(ends) :] == ends and cut[: -len(ends) - 2] == whole[: len(cut) - len(ends) - 2]
        # Nor does it matter how much too long.
        assert scores(llm, "fox", ["lazy dog " * 900], truncate_prompt_tokens=151)[1] == [cut_of(llm, "lazy dog " * 90)]
        with pytest.raises(RequestError, match="must be a string, not 5"):
            scores(llm, "fox", ["dog"], instruction=5)
        with pytest.raises(RequestError, match="leaves no room beside"):
            llm.score("fox", "dog", truncate_prompt_tokens=20, use_tqdm=False)
        with pytest.raises(RequestError, match="maximum context length is 300"):
            llm.score("fox", "lazy dog " * 300, use_tqdm=False)
    with LLM(
        engine, threads=1, chat_template="{{ bos_token }}{{ messages[0].content }}|{{ messages[1].content }}"
    ) as llm:
        _, ids = scores(llm, query, documents)
        assert ids == [own.ids(f"<bos>{query}|{document}") for document in documents]
        with pytest.raises(RequestError, match="takes no instruction"):
            llm.score("fox", "dog", instruction="animals", use_tqdm=False)
    # As SGLang's templates are written.
    places = "{{ instruct | default('none') }}: {{ messages[0]['content'] }}|{{ messages[1]['content'] }}"
    with LLM(engine, threads=1, chat_template=places) as llm:
        _, ids = scores(llm, query, documents, instruction="dogs")
        assert ids == [own.ids(f"dogs: {query}|{document}") for document in documents]


def cut_of(llm: LLM, document: str) -> list[int]:
    (ids,) = scores(llm, "fox", [document], truncate_prompt_tokens=151)[1]
    return ids


def test_a_pair_that_a_client_has_put_into_the_prompt_stays_as_it_is(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the clients of vLLM do for Qwen3-Reranker."""
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))
    model = save_reranker(tmp_path / "model", "qwen3", rng)
    query, documents = random_pairs(rng)
    overrides = {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
        "is_original_qwen3_reranker": True,
    }
    options: dict[str, Any] = {"target": "reference", "max_seq_len": 800, "hf_overrides": overrides}
    with LLM(str(model.directory), threads=1, **options) as llm:
        first = f"{FRONT}<Instruct>: {SEARCH}\n<Query>: {query}\n"
        by_hand = scores(llm, first, [f"<Document>: {document}{BEHIND}" for document in documents])
        assert by_hand == scores(llm, query, documents)
        _, (cut,) = scores(llm, first, ["<Document>: " + "lazy dog " * 300 + BEHIND], truncate_prompt_tokens=251)
        ends = model.ids(BEHIND)
        assert len(cut) <= 251 and cut[-len(ends) :] == ends and cut[:9] == model.ids(FRONT)[:9]


def test_a_template_with_these_roles_goes_before_the_model_cards(tmp_path: Path, rng: np.random.Generator) -> None:
    model = save_reranker(tmp_path / "model", "qwen3", rng, tie_word_embeddings=True)
    (model.directory / "chat_template.jinja").write_text(OWN_TEMPLATE)
    assert convert_model(model.directory, tmp_path / "one", ConvertOptions(score_tokens=("no", "yes"))) == []
    pooling = Checkpoint.open(tmp_path / "one").config.pooling
    assert pooling is not None and pooling.pair_template is not None and pooling.pair_template.source == OWN_TEMPLATE
    (model.directory / "chat_template.jinja").write_text("{{ messages[0].content }}")
    notes = convert_model(model.directory, tmp_path / "other", ConvertOptions(score_tokens=("1", "0")))
    assert any("no chat template of a query and a document" in note for note in notes)
    pooling = Checkpoint.open(tmp_path / "other").config.pooling
    assert pooling is not None and pooling.pair_template is None


def refused(model: Path, *words: str, tokens: tuple[str, ...] = ()) -> None:
    with pytest.raises(ModelError) as raised:
        convert_model(model, model.parent / "refused", ConvertOptions(score_tokens=tokens))
    for each in words:
        assert each in f"{raised.value.message} {raised.value.hint}"


def test_files_that_cannot_be_followed_are_refused_by_name(own: Reranker) -> None:
    write_json(own.directory / "1_LogitScore" / "config.json", {"true_token_id": "yes", "module_input_name": "states"})
    way = {"method": "forward", "method_output_name": "last_hidden_state", "format": "structured"}
    chat = {"chat_template": {"chat_template": "reranker", "enable_thinking": True}}
    module = {"modality_config": {"message": way}, "processing_kwargs": chat, "transformer_task": "any-to-any"}
    write_json(own.directory / "sentence_bert_config.json", module)
    refused(
        own.directory,
        "true_token_id of 1_LogitScore/config.json must be a token id",
        "module_input_name 'states'",
        "modality_config.message {'method': 'forward', 'method_output_name': 'last_hidden_state'",
        "format 'structured'",
        "the chat template 'reranker', which is not there",
        "processing_kwargs.chat_template.enable_thinking",
        "transformer_task 'any-to-any'",
    )
    write_json(own.directory / "1_LogitScore" / "config.json", {"true_token_id": 7, "false_token_id": 4000})
    refused(own.directory, "scores by the token 4000, and its vocabulary projection has")
    write_json(own.directory / "1_LogitScore" / "config.json", {"true_token_id": 7, "false_token_id": 7})
    refused(own.directory, "true_token_id and false_token_id of 1_LogitScore/config.json are both 7")
    (own.directory / "1_LogitScore" / "config.json").unlink()
    refused(own.directory, "module LogitScore of modules.json has 1_LogitScore/config.json, which is not there")


def test_models_that_cannot_score_by_tokens_say_why(tmp_path: Path, rng: np.random.Generator) -> None:
    model = save_reranker(tmp_path / "model", "qwen3", rng).directory
    refused(model, "'yes no' is 3 tokens", tokens=("yes no", "no"))
    for kind, save in (("bert", save_cross_encoder), ("qwen3", save_embedding_model)):
        save(tmp_path / kind, kind, rng)
    refused(tmp_path / "bert", "scores by tokens are those of a model that generates", tokens=("the", "fox"))
    refused(tmp_path / "qwen3", "are not supported in a classifier", tokens=("the", "fox"))
    config = json.loads((model / "config.json").read_text())
    granite = {"architectures": ["GraniteForCausalLM"], "model_type": "granite", "logits_scaling": 2.0}
    write_json(model / "config.json", {**config, **granite})
    refused(model, "not supported of logits that are scaled or capped", tokens=("yes",))
    write_json(model / "config.json", {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"})
    refused(model, "it needs modules that are named as Llama's, where scores are read", tokens=("yes",))
    write_json(model / "config.json", {"model_type": "qwen3_vl", "text_config": {}, "vision_config": {}})
    refused(model, "it needs pairs of pictures", tokens=("yes",))
    with pytest.raises(InflightError, match="neither one token nor two"):
        EngineRequest(model=str(model), score_tokens="yes,no,maybe").engine()


def test_keys_that_stand_for_other_files_are_nothing_in_the_config(tmp_path: Path, rng: np.random.Generator) -> None:
    model = save_reranker(tmp_path / "model", "qwen3", rng).directory
    config = json.loads((model / "config.json").read_text())
    write_json(model / "config.json", {**config, **dict.fromkeys(KEYS_OF_FILES, 5)})
    convert_model(model, tmp_path / "checkpoint")
    assert Checkpoint.open(tmp_path / "checkpoint").config.pooling is None


def test_templates_of_embedding_models_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    """sentence-transformers makes messages of their texts."""
    model = save_embedding_model(tmp_path / "model", "qwen3", rng).directory
    way = {"method": "forward", "method_output_name": "last_hidden_state", "format": "flat"}
    write_json(model / "sentence_bert_config.json", {"modality_config": {"text": way, "message": way}})
    refused(model, "modality_config.message of sentence_bert_config.json is not supported: texts are no messages")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="needs sentence-transformers")
@pytest.mark.parametrize("template", [OWN_TEMPLATE, None], ids=["messages", "texts"])
def test_scores_are_those_of_its_cross_encoders(template: str | None, tmp_path: Path, rng: np.random.Generator) -> None:
    """Of files that were written by hand, and of those that sentence-transformers makes of them."""
    from sentence_transformers import CrossEncoder

    model = save_reranker(tmp_path / "model", "qwen3", rng)
    save_files(model, template)
    query, documents = random_pairs(rng)
    judge = CrossEncoder(str(model.directory), device="cpu", model_kwargs={"dtype": torch.float32})
    judge.save(str(tmp_path / "saved"))
    engines = [built(model, tmp_path), built(replace(model, directory=tmp_path / "saved"), tmp_path / "2")]
    for engine in engines:
        with LLM(engine, threads=1) as llm:
            for asked in (None, "find the fox") if template else (None,):
                expected = judge.predict([(query, document) for document in documents], prompt=asked, batch_size=1)
                found, _ = scores(llm, query, documents, instruction=asked)
                assert np.abs(np.array(found) - expected).max() < ERROR
