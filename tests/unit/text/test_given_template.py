"""A chat template, and variables of it, in place of the model's own: for a server, a batch and LLM."""

from __future__ import annotations

from pathlib import Path

import pytest

from inflight.errors import InflightError, RequestError
from inflight.runtime import LLM, SamplingParams, load_chat_template
from inflight.runtime.engine.heartbeat import Heartbeat
from inflight.runtime.text.chat.given_template import read_template_variables
from inflight.triton_backend.launch.api.service import open_service
from inflight.triton_backend.launch.options import ServeOptions
from inflight.triton_backend.openai.protocol.chat import ChatBody
from tests.engines.serving_engines import write_null_engine

pytestmark = pytest.mark.unit

TEMPLATE = "{{ mood or 'no mood' }}: {{ messages[-1].content }}"
ASKED = {"messages": [{"role": "user", "content": "a fox"}]}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_null_engine(tmp_path_factory.mktemp("null") / "engine", max_seq_len=256)


def test_a_file_or_the_template_itself(tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(TEMPLATE)
    assert load_chat_template(file) == load_chat_template(str(file)) == load_chat_template(TEMPLATE) == TEMPLATE
    assert load_chat_template(None) is None
    with pytest.raises(InflightError, match=r"absent.jinja' cannot be read"):
        load_chat_template(tmp_path / "absent.jinja")
    with pytest.raises(InflightError, match="'chatml' cannot be read"):
        load_chat_template("chatml")


def test_variables_are_a_json_object() -> None:
    assert read_template_variables('{"a": false}') == {"a": False} and read_template_variables(None) == {}
    for wrong in ("{a: 1}", "[1]"):
        with pytest.raises(InflightError, match="enable_thinking"):
            read_template_variables(wrong)


def test_a_server_and_llm_render_it(engine: Path) -> None:
    options = ServeOptions(model_name="x", threads=1, chat_template=TEMPLATE, template_variables={"mood": "glad"})
    service = open_service(engine, options, None, Heartbeat())
    for more, mood in (({}, "glad"), ({"chat_template_kwargs": {"mood": "sad"}}, "sad")):
        prompt = service.chat_prompt(ChatBody.model_validate({**ASKED, **more}))
        assert service.tokenizer.decode(prompt) == f"{mood}: a fox"
    with LLM(engine, chat_template=TEMPLATE) as llm:
        (output,) = llm.chat(ASKED["messages"], SamplingParams(max_tokens=1))
        assert output.prompt == "no mood: a fox"
    with pytest.raises(RequestError, match="cannot be read"):
        LLM(engine, chat_template="{% if %}")
