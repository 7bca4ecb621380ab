"""sgl.Engine as SGLang's page of its offline engine uses it; its tokens are those of LLM."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import inflight.lang as sgl
from inflight.errors import InflightError, RequestError
from inflight.lang.utils import async_stream_and_merge, stream_and_merge
from inflight.runtime import LLM, SamplingParams
from tests.engines.serving_engines import write_null_engine
from tests.patience import eventually

pytestmark = pytest.mark.unit

PROMPTS = ["A fox is", "The dog of the house is", "def lazy("]
GREEDY = {"temperature": 0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_null_engine(tmp_path_factory.mktemp("null") / "engine", max_seq_len=2048)


@pytest.fixture(scope="module")
def llm(directory: Path) -> Iterator[sgl.Engine]:
    engine = sgl.Engine(
        model_path=str(directory), tp_size=1, mem_fraction_static=0.1, context_length=2048, disable_radix_cache=False
    )
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def texts(directory: Path) -> list[str]:
    with LLM(directory) as other:
        return [each.outputs[0].text for each in other.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=12))]


def test_the_four_ways_of_the_page(llm: sgl.Engine, texts: list[str]) -> None:
    outputs = llm.generate(PROMPTS, GREEDY)
    assert [output["text"] for output in outputs] == texts
    assert [stream_and_merge(llm, prompt, GREEDY) for prompt in PROMPTS] == texts

    async def main() -> None:
        together = await asyncio.gather(llm.async_generate(PROMPTS, GREEDY), llm.async_generate(PROMPTS[0], GREEDY))
        assert [output["text"] for output in together[0]] == texts and together[1]["text"] == texts[0]
        for prompt, text in zip(PROMPTS, texts, strict=True):
            pieces = [piece async for piece in async_stream_and_merge(llm, prompt, GREEDY)]
            assert "".join(pieces) == text

    asyncio.run(main())


def test_ids_log_probabilities_and_several_answers(llm: sgl.Engine, texts: list[str]) -> None:
    ids = llm._runtime.get_tokenizer().encode(PROMPTS[0])
    one = llm.generate(input_ids=ids, sampling_params=GREEDY, return_logprob=True, top_logprobs_num=2)
    assert one["text"] == texts[0] and len(one["output_ids"]) == 12
    meta = one["meta_info"]
    assert meta["finish_reason"] == {"type": "length", "length": 12} and meta["prompt_tokens"] == len(ids)
    assert [token[1] for token in meta["output_token_logprobs"]] == one["output_ids"]
    assert all(len(each) == 2 for each in meta["output_top_logprobs"])
    scored = llm.generate(PROMPTS[0], GREEDY, return_logprob=True, logprob_start_len=2)["meta_info"]
    assert [token[1] for token in scored["input_token_logprobs"]] == ids[2:]
    whole = llm.generate(PROMPTS[0], GREEDY, return_logprob=True, logprob_start_len=0)["meta_info"]
    assert [token[1] for token in whole["input_token_logprobs"]][-len(ids[2:]) :] == ids[2:]
    assert "input_token_logprobs" not in meta
    several = llm.generate(PROMPTS[0], {"n": 2, "temperature": 1, "sampling_seed": 4, "max_new_tokens": 5})
    assert len(several) == 2 and several[0]["output_ids"] != several[1]["output_ids"]
    marked = list(llm.generate(input_ids=[ids, ids], sampling_params=[GREEDY, GREEDY], stream=True))
    assert {each["index"] for each in marked} == {0, 1}


def test_structures(llm: sgl.Engine) -> None:
    asked: list[dict[str, Any]] = [
        {"json_schema": '{"enum": ["fox", 7]}'},
        {"regex": "(fox|dog)"},
        {"ebnf": 'root ::= "fox" | "dog"'},
    ]
    found = llm.generate(["x"] * 3, [{**each, "max_new_tokens": 40} for each in asked])
    assert found[0]["text"].strip() in ('"fox"', "7") and all(each["text"] in ("fox", "dog") for each in found[1:])


def test_leaving_a_stream_ends_its_request(llm: sgl.Engine) -> None:
    async def leave() -> None:
        chunks = await llm.async_generate("A", {"max_new_tokens": 2000, "ignore_eos": True}, stream=True)
        async for _ in chunks:
            break
        await chunks.aclose()

    asyncio.run(leave())
    assert eventually(lambda: llm._runtime._engine.stats().running == 0)


def test_what_cannot_be_is_said(llm: sgl.Engine, directory: Path) -> None:
    for words, names in (
        ("needs a model", {}),
        ("option of a server", {"model_path": str(directory), "port": 5}),
        ("speculative_algorithm", {"model_path": str(directory), "speculative_algorithm": "EAGLE"}),
        ("max_seq_len 64", {"model_path": str(directory), "context_length": 64}),
    ):
        with pytest.raises(InflightError, match=words):
            sgl.Engine(**names)
    for given in ({}, {"prompt": "x", "input_ids": [1]}, {"prompt": "x", "image_data": "y"}):
        with pytest.raises(RequestError):
            llm.generate(**given)
    with pytest.raises(RequestError, match="2 prompts but 1"):
        llm.generate(["a", "b"], [{}])
    with pytest.raises(RequestError, match="max_new_tokn"):
        llm.generate("a", {"max_new_tokn": 3})
