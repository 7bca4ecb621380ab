"""The text around messages, found by rendering chat templates of all kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inflight.errors import InflightError, RequestError
from inflight.lang.roles import Roles
from inflight.runtime.text.chat.chat_template import ChatTemplate

pytestmark = pytest.mark.unit

LINES = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>\n{% endfor %}"
ASKS = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
TEMPLATES = {
    "lines": LINES + ASKS,
    "default system": "{% if messages[0].role != 'system' %}<|system|>Be brief.</s>\n{% endif %}" + LINES + ASKS,
    "trims": "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}[/]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}",
    "thinks": LINES + "{% if add_generation_prompt %}<|assistant|><think>\n\n</think>\n{% endif %}",
    "ends otherwise": "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% if loop.last and m.role == 'assistant' %}END{% else %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
    "system in the user's": "{% if messages[0].role == 'system' %}{% set head = '<<' + messages[0].content + '>> ' %}"
    "{% set rest = messages[1:] %}{% else %}{% set head = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}[INST] {{ head if loop.first else '' }}{{ m.content }} [/INST]"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}",
    "generation is as a message": LINES,
}


def render(source: str) -> Any:
    template = ChatTemplate({"default": source})
    return lambda messages, asks: template.render(messages, add_generation_prompt=asks, variables={"bos_token": "<s>"})


@pytest.mark.parametrize("name", TEMPLATES)
def test_messages_that_are_appended_read_as_the_template_has_them(name: str, rng: np.random.Generator) -> None:
    """Whole conversations, and the prompt before each answer."""
    rendered = render(TEMPLATES[name])
    order = ["user", "assistant"] * int(rng.integers(1, 4))
    order = ["system", *order] if rng.random() < 0.5 else order
    roles, text, ended_at, suffix = Roles(rendered), "", 0, ""
    messages: list[dict[str, str]] = []
    for role in order:
        before = roles.before([each["role"] for each in messages], role)
        text = text[:ended_at] + before
        if role == "assistant":
            asks, content = rendered(messages, True), messages[-1]["content"]
            assert before == asks.rpartition(content)[2] or asks == rendered(messages, False)
        messages.append({"role": role, "content": f"content {rng.integers(1000)}."})
        text += messages[-1]["content"]
        ended_at, suffix = len(text), roles.behind([each["role"] for each in messages])
    if name != "thinks":  # its history has no thoughts
        assert text + suffix == rendered(messages, False)


def test_a_role_that_the_template_refuses_is_named_in_its_words() -> None:
    source = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    roles = Roles(render(source + "{{ m.content }}{% endfor %}"))
    assert roles.before([], "user") == ""
    with pytest.raises(RequestError, match="no system here"):
        roles.before([], "system")


def test_a_template_that_moves_a_message_is_refused() -> None:
    """As one that shows the system's message before the last of the user's, wherever that is."""
    source = (
        "{% set ns = namespace(head='') %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.head = m.content %}"
        "{% elif loop.last %}[INST]{{ ns.head }} {{ m.content }}[/INST]"
        "{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}"
    )
    roles = Roles(render(source))
    assert roles.before(["system"], "user") == " "
    with pytest.raises(InflightError, match="in its place"):
        roles.before(["system", "user"], "user")
