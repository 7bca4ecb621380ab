"""What chat requests say to the template: documents, effort, an answer to be continued."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.loading.load import load_engine
from inflight.triton_backend.openai.backends.embedded import EmbeddedBackend
from tests.endpoint.conftest import running_shim
from tests.endpoint.openai_api.test_openai_api import post
from tests.engines.serving_engines import CHAT_TEMPLATE, write_null_engine
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

VARIABLES = (
    "{% if slow %}{% for _ in range(1000) %}{% for _ in range(1000) %}{% endfor %}{% endfor %}{% endif %}"
    "{% if documents %}[{% for each in documents %}{{ each.title }}: {{ each.text }};{% endfor %}]{% endif %}"
    "{% if reasoning_effort is defined %}effort={{ reasoning_effort }};{% endif %}"
    "{% if verbosity is defined %}verbosity={{ verbosity }};{% endif %}"
    "{% if enable_thinking is defined %}thinking={{ enable_thinking }};{% endif %}"
)
PARTS = (
    "{% for each in messages %}{% if each.content is string %}{{ each.content }}"
    "{% else %}{% for part in each.content %}({{ part.text }}){% endfor %}{% endif %}{% endfor %}"
)
MESSAGES = [{"role": "user", "content": "fox"}]


@pytest.fixture(scope="module")
def template_shim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model whose template shows all that it is given."""
    with shim_with(tmp_path_factory.mktemp("template") / "engine", VARIABLES + CHAT_TEMPLATE) as url:
        yield url


@contextmanager
def shim_with(engine: Path, template: str) -> Iterator[str]:
    write_null_engine(engine, chat_template=template)
    with running_shim(engine, EmbeddedBackend(EngineThread(EngineCore(load_engine(engine))))) as url:
        yield url


def prompt(shim: str, **body: Any) -> str:
    """The prompt that the model read."""

    def ask(path: str, body: dict[str, Any]) -> Any:
        status, answer = post(shim, path, json.dumps(body).encode())
        assert status == 200, answer
        return answer

    asked = {"messages": MESSAGES, "max_tokens": 1, "return_token_ids": True, **body}
    ids = ask("/v1/chat/completions", asked)["prompt_token_ids"]
    return str(ask("/detokenize", {"tokens": ids})["prompt"])


def test_what_is_asked_for_reaches_the_template(template_shim: str) -> None:
    plain = "<|user|>fox\n<|assistant|>"
    assert prompt(template_shim) == plain
    assert prompt(template_shim, documents=[{"title": "a", "text": "b"}]) == "[a: b;]" + plain
    assert prompt(template_shim, reasoning_effort="high") == "effort=high;thinking=True;" + plain
    assert prompt(template_shim, reasoning_effort="none") == "effort=none;thinking=False;" + plain
    own = {"enable_thinking": False}
    assert prompt(template_shim, reasoning_effort="low", chat_template_kwargs=own).startswith("effort=low;thinking=Fal")
    assert prompt(template_shim, verbosity="low") == "verbosity=low;" + plain
    assert prompt(template_shim, add_special_tokens=True) == "<s>" + plain
    assert prompt(template_shim, add_generation_prompt=False) == plain.removesuffix("<|assistant|>")


def test_the_last_message_is_continued(template_shim: str) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "The lazy"}]
    for more in ({}, {"add_generation_prompt": False}):
        found = prompt(template_shim, messages=messages, continue_final_message=True, **more)
        assert found == "<|user|>fox\n<|assistant|>The lazy"
    both = {"messages": messages, "continue_final_message": True, "add_generation_prompt": True}
    status, answer = post(template_shim, "/v1/chat/completions", json.dumps(both).encode())
    assert (status, answer["error"]["param"]) == (400, "continue_final_message")


def test_the_developer_is_the_system_to_a_template_that_does_not_know_the_role(template_shim: str) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, *MESSAGES]
    assert prompt(template_shim, messages=messages).startswith("<|system|>Be brief.\n")


def test_parts_reach_a_template_that_knows_them_and_strings_stay_strings(template_shim: str, tmp_path: Path) -> None:
    parts = [
        {"type": "text", "text": "fox"},
        {"type": "refusal", "refusal": "no"},
        {"type": "input_text", "text": "dog"},
    ]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": None, "refusal": "never"}]
    with shim_with(tmp_path / "engine", PARTS) as shim:
        assert prompt(shim, messages=messages) == "(fox)(no)(dog)never"
    assert prompt(template_shim, messages=messages[:1]) == "<|user|>foxnodog\n<|assistant|>"


def test_a_slow_template_holds_up_nobody(template_shim: str) -> None:
    body = json.dumps({"messages": MESSAGES, "chat_template_kwargs": {"slow": True}}).encode()
    for path in ("/v1/chat/completions", "/tokenize"):
        answered = 0
        with ThreadPoolExecutor() as pool:
            slow = pool.submit(post, template_shim, path, body)
            while wait([slow], timeout=0.02).not_done:
                with urllib.request.urlopen(f"{template_shim}/health", timeout=PATIENCE_S) as answer:
                    answered += answer.status == 200
        status, answer = slow.result()
        assert (status, answer["error"]["param"]) == (400, "messages"), answer
        # Some may have been answered before the template began.
        assert answered >= 10
