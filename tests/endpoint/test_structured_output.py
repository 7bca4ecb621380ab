"""Structured output through real servers: the openai package and tritonclient, in both modes.

The engine says anything that it may (a null engine), so nothing but the masks makes a text conform.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import jsonschema
import numpy as np
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field, SecretStr
from tritonclient.utils import InferenceServerException

from inflight.runtime.text.tokenizer import load_tokenizer
from inflight.triton_backend.launch.installation import TritonInstallation
from inflight.triton_backend.launch.server import TritonServer
from inflight.triton_backend.openai.backends.triton import TritonBackend
from tests.endpoint.conftest import MODEL, generating_shim, running_shim, running_triton
from tests.endpoint.triton_calls import ids, stream
from tests.engines.random_schemas import random_schema
from tests.engines.serving_engines import write_null_engine
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

# Each e of a text is followed by this.
TAG: dict[str, Any] = {"structures": [{"begin": "e=", "schema": {"const": 5}, "end": ";"}], "triggers": ["e"]}
TAGGED = r"(?s)([^e]|e=\s*5;)*"
MESSAGES: list[Any] = [{"role": "user", "content": "fox"}]


@pytest.fixture(scope="module")
def plain_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without end tokens: those of null engines are letters."""
    return write_null_engine(tmp_path_factory.mktemp("null") / "engine", max_seq_len=4096)


@pytest.fixture(scope="module")
def server(
    installation: TritonInstallation, plain_engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    with running_triton(installation, plain_engine, tmp_path_factory.mktemp("triton"), {}) as server:
        yield server


@pytest.fixture(scope="module")
def embedded(plain_engine: Path) -> Iterator[str]:
    with generating_shim(plain_engine) as url:
        yield url


@pytest.fixture(scope="module")
def behind_triton(plain_engine: Path, server: TritonServer) -> Iterator[str]:
    with running_shim(plain_engine, TritonBackend(server.address.grpc_url)) as url:
        yield url


@pytest.fixture(params=["embedded", "behind_triton"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)


def schema_format(schema: dict[str, Any]) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def test_a_pydantic_model_is_parsed(client: openai.OpenAI, rng: np.random.Generator) -> None:
    class Step(BaseModel):
        explanation: str = Field(max_length=20)
        number: int = Field(ge=-5, le=1000)

    class Answer(BaseModel):
        steps: list[Step] = Field(max_length=3)
        verdict: Literal["yes", "no"]

    answer = client.chat.completions.parse(
        model=MODEL, messages=MESSAGES, response_format=Answer, max_tokens=2000, seed=int(rng.integers(1 << 30))
    )
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Answer) and answer.choices[0].finish_reason == "stop"


def test_random_schemas_whole_and_streamed_many_at_once(url: str, rng: np.random.Generator) -> None:
    schemas = [random_schema(rng) for _ in range(12)]
    seeds = [int(rng.integers(1 << 30)) for _ in schemas]

    async def ask(client: openai.AsyncOpenAI, schema: dict[str, Any], seed: int) -> tuple[str, str, str | None]:
        common: Any = {"model": MODEL, "messages": MESSAGES, "max_tokens": 2000, "seed": seed}
        common["response_format"] = schema_format(schema)
        whole = await client.chat.completions.create(**common)
        chunks = [chunk async for chunk in await client.chat.completions.create(stream=True, **common)]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        return whole.choices[0].message.content or "", text, whole.choices[0].finish_reason

    async def ask_all() -> list[tuple[str, str, str | None]]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=PATIENCE_S) as client:
            return await asyncio.gather(*(ask(client, *each) for each in zip(schemas, seeds, strict=True)))

    for schema, (whole, streamed, reason) in zip(schemas, asyncio.run(ask_all()), strict=True):
        assert whole == streamed
        if reason != "length":
            jsonschema.validate(json.loads(whole), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("asked", "expression"),
    [
        ({"guided_choice": ["red", "blüe"], "guided_decoding_backend": "xgrammar"}, "red|blüe"),
        ({"guided_regex": "[a-f]{3,9}!"}, "[a-f]{3,9}!"),
        ({"guided_grammar": 'root ::= "a" ("b" | "c") "d"?'}, "a(b|c)d?"),
        ({"guided_json": {"enum": [1, "two"]}}, '1|"two"'),
        ({"structured_outputs": {"regex": "x[0-9]{2}"}}, "x[0-9]{2}"),
        ({"structured_outputs": {"choice": ["left", "right"], "json": None}}, "left|right"),
        ({"regex": "(ab){2,3}"}, "(ab){2,3}"),
        ({"ebnf": 'root ::= [0-9]+ "."'}, r"[0-9]+\."),
        ({"json_schema": '{"type": "boolean"}'}, "true|false"),
        ({"response_format": {"type": "json_object"}}, r"(?s)\{.*"),
        ({"response_format": {"type": "json", "value": {"enum": [True, 7]}}}, "true|7"),
        ({"response_format": {"type": "regex", "value": "[a-c]{2}"}}, "[a-c]{2}"),
        ({"guided_choice": ["<s>", "</s>"]}, "</?s>"),
        ({"response_format": {"type": "structural_tag", **TAG}}, TAGGED),
        ({"structural_tag": json.dumps(TAG)}, TAGGED),
        ({"structured_outputs": {"structural_tag": json.dumps(TAG)}}, TAGGED),
    ],
)
def test_every_name_of_it_is_honoured(client: openai.OpenAI, asked: dict[str, Any], expression: str) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="fox", n=3, max_tokens=300, temperature=1.0, extra_body=asked
    )
    for choice in answer.choices:
        assert choice.finish_reason == "length" or re.fullmatch(expression, choice.text), choice
    assert client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=300, extra_body=asked)


@pytest.mark.parametrize(
    ("asked", "param", "words"),
    [
        ({"response_format": schema_format({"type": "verse"})}, "response_format", "cannot be used"),
        ({"guided_regex": "(a"}, "guided_regex", "cannot be used"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar", "cannot be used"),
        ({"guided_json": "{"}, "guided_json", "no JSON"),
        ({"guided_choice": ["a", ""]}, "guided_choice", "empty"),
        ({"structured_outputs": {"verse": "x"}}, "structured_outputs", "'verse'"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "regex and choice"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "both ask"),
        ({"guided_json": "[" * 3000 + "]" * 3000}, "guided_json", "deep"),
        ({"guided_decoding_backend": "verse"}, "guided_decoding_backend", "this compiler"),
        ({"response_format": {"type": "json", "value": {"type": "verse"}}}, "response_format", "cannot be used"),
        ({"response_format": {"type": "text", "value": "x"}}, "response_format.value", "does not read"),
        ({"structured_outputs": {"json_object": "no"}}, "structured_outputs", "true or false"),
        ({"response_format": {"type": "structural_tag", "triggers": ["e"]}}, "response_format", "needs structures"),
        ({"response_format": {"type": "text", "triggers": ["e"]}}, "response_format.triggers", "does not read"),
        # What costs too much while it is followed.
        ({"guided_regex": "x{1000000}"}, "guided_regex", "failed"),
    ],
)
def test_what_cannot_be_met_is_a_400_that_names_its_field(
    client: openai.OpenAI, asked: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as refusal:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=20, extra_body=asked)
    assert refusal.value.param == param
    assert client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=2).choices


@pytest.mark.parametrize(("method", "kind"), [("json_schema", "json_schema"), ("json_mode", "json_object")])
def test_langchain_gets_structured_output(url: str, method: Any, kind: str, rng: np.random.Generator) -> None:
    """What goes over the wire asks for it, and what comes back is it: of the schema, or in JSON mode any object."""
    schema: dict[str, Any] = {
        "title": "colour",
        "type": "object",
        "properties": {"red": {"type": "integer", "minimum": 0, "maximum": 255}},
    }
    schema |= {"required": ["red"], "additionalProperties": False}
    bodies: list[dict[str, Any]] = []
    hooks: Any = {"request": [lambda request: bodies.append(json.loads(request.content))]}
    with httpx.Client(event_hooks=hooks) as http:
        for seed in rng.integers(1 << 30, size=40).tolist():
            chat = ChatOpenAI(
                base_url=f"{url}/v1",
                api_key=SecretStr("none"),
                model=MODEL,
                max_retries=0,
                seed=seed,
                max_completion_tokens=600,
                http_client=http,
            )
            bound: Any = chat.with_structured_output(schema, method=method, include_raw=True)
            try:
                answer = bound.invoke("fox")
                break
            except openai.LengthFinishReasonError as error:
                # An object of any kind may become too long, and says so.
                assert (error.completion.choices[0].message.content or "").startswith("{")
        else:
            raise AssertionError("no object came to an end")
    assert {body["response_format"]["type"] for body in bodies} == {kind}
    value = json.loads(answer["raw"].content)
    assert isinstance(value, dict) and answer["parsed"] == value and answer["parsing_error"] is None
    assert not answer["raw"].tool_calls
    if method == "json_schema":
        jsonschema.validate(value, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("model", ["tensorrt_llm", "tensorrt_llm_bls", "ensemble"])
@pytest.mark.parametrize(
    ("kind", "guide", "expression"),
    [
        ("json", "", r"(?s)\{.*"),
        ("json_schema", '{"enum": ["a", 2]}', '"a"|2'),
        ("regex", "[a-c]{4}", "[a-c]{4}"),
        ("ebnf_grammar", 'root ::= "yes" | "no"', "yes|no"),
        ("choice", '["left", "right"]', "left|right"),
        ("structural_tag", json.dumps({"type": "structural_tag", **TAG}), TAGGED),
    ],
)
def test_tritons_models_take_a_guide(
    server: TritonServer, plain_engine: Path, model: str, kind: str, guide: str, expression: str
) -> None:
    tokenizer = load_tokenizer(plain_engine / "tokenizer")
    asked: dict[str, Any] = {"guided_decoding_guide_type": kind, "guided_decoding_guide": guide}
    if model == "tensorrt_llm":
        values = ids(tokenizer.encode("fox"), 300, end_id=-1, exclude_input_in_output=True, **asked)
        (answer,) = stream(server, model, values)
        text = tokenizer.decode([int(token) for token in answer["output_ids"].reshape(-1)])
    else:
        request = {"text_input": "fox", "max_tokens": 300, "end_id": -1, "exclude_input_in_output": True}
        (answer,) = stream(server, model, request | asked)
        text = answer["text_output"].reshape(-1)[0].decode()
    assert re.fullmatch(expression, text), text


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"guided_decoding_guide_type": "verse", "guided_decoding_guide": "x"}, "must be one of"),
        ({"guided_decoding_guide_type": "regex"}, "is empty"),
        ({"guided_decoding_guide": "a*"}, "must be one of"),
        ({"guided_decoding_guide_type": "regex", "guided_decoding_guide": "(a"}, "cannot be used"),
        ({"guided_decoding_guide_type": "choice", "guided_decoding_guide": "a"}, "JSON list"),
        ({"guided_decoding_guide_type": "structural_tag", "guided_decoding_guide": "[]"}, "must be an object"),
    ],
)
def test_a_wrong_guide_is_refused(server: TritonServer, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(InferenceServerException, match=words):
        stream(server, "tensorrt_llm", ids([1, 2, 3], 8, **asked))
