"""What ends a text, and how, is the same at every front: the OpenAI API over both backends, ensemble and bls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from tritonclient.utils import InferenceServerException

from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from inflight.triton_backend.launch.server import TritonServer
from tests.endpoint.conftest import MODEL
from tests.endpoint.triton_calls import ids, stream, texts

pytestmark = pytest.mark.endpoint

# Some special token is among so many of a vocabulary of 400.
LONG = 4_000
CORE = "tensorrt_llm"


@pytest.fixture(scope="module")
def tokenizer(engine: Path) -> Tokenizer:
    return load_tokenizer(engine / "tokenizer")


def until(tokenizer: Tokenizer, free: list[int], piece: str) -> str:
    """The text before the first special token of this name."""
    assert tokenizer.token_id(piece) in free
    return tokenizer.decode(free[: free.index(tokenizer.token_id(piece) or -1)])


@pytest.mark.parametrize("piece", ["<s>", "</s>"])
def test_the_models_of_triton_stop_at_a_special_token(
    triton: TritonServer, tokenizer: Tokenizer, piece: str, seed: int
) -> None:
    prompt = f"the fox {seed}"
    (raw,) = stream(
        triton, "tensorrt_llm", ids(tokenizer.encode(prompt), LONG, end_id=-1, exclude_input_in_output=True)
    )
    expected = until(tokenizer, [int(token) for token in raw["output_ids"].reshape(-1)], piece)
    asked = {"text_input": prompt, "max_tokens": LONG, "end_id": -1, "stop_words": [piece]}
    for model in ("ensemble", "tensorrt_llm_bls"):
        for options in ({"exclude_input_in_output": True}, {"stream": True}):
            reasons = {"return_finish_reason": True, "return_stop_reason": True}
            answers = stream(triton, model, {**asked, **options, **reasons})
            assert "".join(texts(answers)) == expected
            assert answers[-1]["finish_reason"].tolist() == [[b"stop"]]
            assert answers[-1]["stop_reason"].tolist() == [[piece.encode()]]
    (whole,) = texts(stream(triton, "tensorrt_llm_bls", {**asked, "exclude_input_in_output": False}))
    assert whole == tokenizer.decode(tokenizer.encode(prompt)) + expected


@pytest.mark.parametrize("piece", ["<s>", "</s>"])
def test_the_openai_api_stops_at_a_special_token(shim: str, tokenizer: Tokenizer, piece: str, seed: int) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": f"the fox {seed}", "max_tokens": LONG, "temperature": 0}
    more = {"ignore_eos": True}
    with openai.OpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0) as client:
        free = client.completions.create(**asked, extra_body={**more, "return_token_ids": True}).choices[0]
        before = until(tokenizer, free.model_extra["token_ids"], piece)
        for keep in (False, True):
            body = {**more, "include_stop_str_in_output": keep}
            whole = client.completions.create(**asked, stop=piece, extra_body=body).choices[0]
            chunks = [
                chunk.choices[0]
                for chunk in client.completions.create(**asked, stop=piece, extra_body=body, stream=True)
            ]
            for text, last in ((whole.text, whole), ("".join(chunk.text for chunk in chunks), chunks[-1])):
                assert text == before + (piece if keep else "")
                assert (last.finish_reason, last.model_extra["stop_reason"]) == ("stop", piece)


def test_counts_and_log_probabilities_end_where_the_stop_word_is_complete(
    triton: TritonServer, tokenizer: Tokenizer, seed: int
) -> None:
    """Whatever the engine had made by the time it was stopped."""
    prompt = f"the fox {seed}"
    counts = dict.fromkeys(("return_log_probs", "return_num_output_tokens"), True)
    asked = {"text_input": prompt, "max_tokens": 600, "end_id": -1, "exclude_input_in_output": True, **counts}
    raw = ids(tokenizer.encode(prompt), 600, end_id=-1, exclude_input_in_output=True, **counts)
    (free,) = stream(triton, "tensorrt_llm", raw)
    tokens = [int(token) for token in free["output_ids"].reshape(-1)]
    text = tokenizer.decode(tokens)
    # Of whole characters: what half of one is, is certain with the token behind it.
    word = next(
        text[at : at + 3] for at in range(11, len(text)) if "\N{REPLACEMENT CHARACTER}" not in text[at : at + 3]
    )
    num_tokens = next(count for count in range(len(tokens)) if word in tokenizer.decode(tokens[:count]))
    log_probs = free["output_log_probs"][0, 0, :num_tokens]
    for model, streaming in [
        ("tensorrt_llm_bls", False),
        ("tensorrt_llm_bls", True),
        ("tensorrt_llm_bls_unary", False),
    ]:
        answers = stream(triton, model, {**asked, "stop_words": [word], "stream": streaming})
        assert sum(int(answer["num_output_tokens"][0, 0]) for answer in answers) == num_tokens
        assert np.array_equal(answers[-1]["output_log_probs"][0, 0], log_probs)
        assert answers[-1]["cum_log_probs"][0, 0] == pytest.approx(float(log_probs.sum()), rel=1e-5)


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_a_row_of_a_batch_is_answered_as_when_it_comes_alone(
    triton: TritonServer, rng: np.random.Generator, model: str
) -> None:
    flags = ["exclude_input_in_output", "return_finish_reason", "return_log_probs", "stream", "return_stop_reason"]
    flags += ["return_num_output_tokens", "return_num_input_tokens"]
    rows: list[dict[str, Any]] = [{name: bool(rng.integers(2)) for name in flags} for _ in range(4)]
    rows = [{**row, "text_input": f"fox {rng.integers(1 << 30)}", "max_tokens": 9, "end_id": -1} for row in rows]
    check_rows(triton, model, rows, {name: array([[row[name]] for row in rows]) for name in rows[0]})


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_word_lists_of_a_batch_are_filled_up_with_empty_words(
    triton: TritonServer, tokenizer: Tokenizer, rng: np.random.Generator, model: str
) -> None:
    pieces = [tokenizer.decode([int(token)]) for token in rng.integers(10, 350, size=3)]
    words = [["</s>", "<s>", *pieces[:2]], [pieces[2]], []]
    weights = [[float(weight) for weight in rng.uniform(2, 9, size=len(row))] for row in words]
    asked = {"text_input": f"fox {rng.integers(1 << 30)}", "max_tokens": 200, "end_id": -1, "return_stop_reason": True}
    names = ("embedding_bias_words", "embedding_bias_weights", "stop_words")
    rows = [
        asked | dict(zip(names, lists, strict=True)) if lists[0] else asked
        for lists in zip(words, weights, words, strict=True)
    ]
    batch = {name: array([[value]] * 3) for name, value in asked.items()}
    batch |= {"embedding_bias_weights": array([row + [1.0] * (4 - len(row)) for row in weights])}
    batch |= dict.fromkeys(names[::2], array([row + [""] * (4 - len(row)) for row in words]))
    check_rows(triton, model, rows, batch)


def test_token_biases_of_a_batch_are_filled_up_with_the_id_minus_one(
    triton: TritonServer, rng: np.random.Generator
) -> None:
    biased = [[int(token) for token in rng.choice(np.arange(10, 390), size=size, replace=False)] for size in (3, 1)]
    rows = [
        ids([7, 8, 9], 9, end_id=-1, logit_bias_ids=tokens, logit_bias_values=[5.0] * len(tokens)) for tokens in biased
    ]
    batch = {name: np.repeat(np.array([value], np.int32).reshape(1, -1), 2, axis=0) for name, value in rows[1].items()}
    batch["logit_bias_ids"] = array([row + [-1] * (3 - len(row)) for row in biased])
    batch["logit_bias_values"] = np.full((2, 3), 5, np.float32)
    found = {int(answer["batch_index"][0, 0]): answer["output_ids"].tolist() for answer in stream(triton, CORE, batch)}
    assert found == {index: stream(triton, CORE, row)[0]["output_ids"].tolist() for index, row in enumerate(rows)}


@pytest.mark.parametrize(
    "ways", [{"embedding_bias": 1.0}, {"logit_bias": 1.0}, {"embedding_bias": 0.5, "logit_bias": 0.5}]
)
def test_a_request_that_forbids_every_token_is_refused(
    triton: TritonServer, tokenizer: Tokenizer, rng: np.random.Generator, engine: Path, ways: dict[str, float]
) -> None:
    vocab_size = read_engine_directory(engine).manifest.model.vocab_size
    order = [int(token) for token in rng.permutation(vocab_size)]
    cut = int(vocab_size * ways.get("embedding_bias", 0))

    def forbid(tokens: list[int]) -> dict[str, Any]:
        dense, sparse = tokens[:cut], tokens[cut:]
        bias = [-np.inf if token in set(dense) else 0.0 for token in range(vocab_size)]
        asked: dict[str, Any] = {"embedding_bias": bias} if dense else {}
        if sparse:
            asked |= {"logit_bias_ids": sparse, "logit_bias_values": [-np.inf] * len(sparse)}
        return asked

    (answer,) = stream(triton, CORE, ids([7, 8], 3, exclude_input_in_output=True, end_id=-1, **forbid(order[:-1])))
    assert answer["output_ids"].reshape(-1).tolist() == [order[-1]] * 3
    with pytest.raises(InferenceServerException, match=r"bias\w* forbid every token"):
        stream(triton, CORE, ids([7, 8], 3, **forbid(order)))


def array(rows: list[list[Any]]) -> Any:
    kinds: dict[type, Any] = {bool: np.bool_, int: np.int32, float: np.float32, str: np.object_}
    kind = kinds[type(rows[0][0])]
    return np.array([[value.encode() if isinstance(value, str) else value for value in row] for row in rows], kind)


def check_rows(triton: TritonServer, model: str, rows: list[dict[str, Any]], batch: dict[str, Any]) -> None:
    """That each row of `batch` is answered as the request of `rows` that it stands for."""
    answers = stream(triton, model, batch)
    for index, row in enumerate(rows):
        found = joined([answer for answer in answers if answer["batch_index"][0, 0] == index])
        assert found == joined(stream(triton, model, row)), row


def joined(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """What one row's answers say together, however many they are, and which outputs they have."""
    outputs: dict[str, Any] = {"text": "".join(texts(answers))}
    for name in sorted(answers[-1].keys() - {"text_output", "batch_index"}):
        outputs[name] = answers[-1][name].tolist()
    if "num_output_tokens" in outputs:
        outputs["num_output_tokens"] = sum(int(answer["num_output_tokens"][0, 0]) for answer in answers)
    return outputs


def test_a_top_p_of_zero_means_the_same_at_every_front(triton: TritonServer, shim: str, seed: int) -> None:
    """The likeliest token alone, as OpenAI's clients mean it; beside a top_k no filter, as NVIDIA's clients do."""
    prompt = f"the fox {seed}"

    def over_http(**sampling: Any) -> str:
        body = {"ignore_eos": True, "seed": 5, **sampling}
        with openai.OpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0) as client:
            answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=20, extra_body=body)
            return str(answer.choices[0].text)

    assert over_http(top_p=0) == over_http(top_p=0, top_k=1) == over_http(top_k=1)
    assert over_http(top_p=0, top_k=9) == over_http(top_k=9)
    asked = {
        "text_input": prompt,
        "max_tokens": 20,
        "end_id": -1,
        "exclude_input_in_output": True,
        "seed": np.array([[5]], np.uint64),
    }
    for model in ("ensemble", "tensorrt_llm_bls"):
        answers = [texts(stream(triton, model, {**asked, "top_k": 9, **more})) for more in ({}, {"top_p": 0.0})]
        assert answers == [[over_http(top_k=9)]] * 2


def test_a_stop_string_that_asks_for_nothing_is_none(shim: str) -> None:
    with openai.OpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0) as client:
        for stop in ("", [], [""]):
            answer = client.completions.create(
                model=MODEL, prompt="fox", max_tokens=7, stop=stop, extra_body={"ignore_eos": True}
            )
            assert (answer.choices[0].finish_reason, answer.usage and answer.usage.completion_tokens) == ("length", 7)
