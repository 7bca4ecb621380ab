"""A chat template is a program of the model's: whatever it does, it ends soon, with its reason."""

from __future__ import annotations

import time

import pytest

from inflight.errors import RequestError
from inflight.runtime.text.chat import template_limits
from inflight.runtime.text.chat.chat_template import ChatTemplate

pytestmark = pytest.mark.unit

CHAT = [{"role": "user", "content": "Hi"}]
TEN_LOOPS = "".join(f"{{% for i{n} in range(90000) %}}" for n in range(10))
ENDLESS = {
    "nested loops without output": TEN_LOOPS + "{% endfor %}" * 10,
    "nested loops with output": TEN_LOOPS + "some text" + "{% endfor %}" * 10,
    "loops in a macro": "{% macro m() %}" + TEN_LOOPS + "x" * 1000 + "{% endfor %}" * 10 + "{% endmacro %}{{ m() }}",
    "a range that is too long": "{% for i in range(10**9) %}x{% endfor %}",
    "doubling with ~": "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling with +": "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling lists": "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "nesting lists": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}",
    "powers": "{{ 10 ** (10 ** 10) }}",
    "repeated text": "{{ 'a' * 10 ** 10 }}",
    "repeated lists": "{{ [0] * 10 ** 10 }}",
    "a width": "{{ '%1000000000d' % 1 }}",
    "a starred width": "{{ '%*d' % (10 ** 9, 1) }}",
    "a format": "{{ '{:1000000000}'.format(1) }}",
    "the format filter": "{{ '%1000000000d' | format(1) }}",
    "centring": "{{ 'x' | center(10 ** 10) }}",
    "a method": "{{ 'x'.ljust(10 ** 10) }}",
    "indenting": "{{ ('x\n' * 100000) | indent(100000) }}",
    "replacing": "{{ ('x' * 1000000) | replace('x', 'y' * 1000000) }}",
    "tabs": "{{ ('\t' * 100000).expandtabs(100000) }}",
    "a method that replaces": "{{ ('x' * 1000000).replace('x', 'y' * 1000000) }}",
    "a method that joins": "{{ ('x' * 1000000).join(['y'] * 1000000) }}",
    "joining": "{{ (['x' * 1000000] * 100000) | join }}",
    "batches": "{{ [1] | batch(10 ** 10, 0) | list }}",
    "lipsum": "{{ lipsum(n=10 ** 6) }}",
    "endless recursion": "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "branching recursion": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(90) }}",
}
for way in ("tojson", "string", "join", "length and n.x == [n.x, 1] + n.x", "pprint"):
    ENDLESS[f"nested lists through {way}"] = ENDLESS["nesting lists"] + f"{{{{ n.x | {way} }}}}"
ENDLESS["nested lists compared"] = (
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}"
    "{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}"
)
del ENDLESS["nesting lists"]  # by itself it is cheap


@pytest.mark.parametrize("what", ENDLESS)
def test_a_template_that_would_not_end_is_refused_soon(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "SECONDS", 0.3)
    started = time.thread_time()
    with pytest.raises(RequestError, match="chat template"):
        ChatTemplate({"default": ENDLESS[what]}).render(CHAT)
    # Of this thread's processor: how busy the machine is plays no part.
    assert time.thread_time() - started < 3


def test_after_a_refusal_the_next_conversation_has_all_its_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "SECONDS", 0.3)
    template = ChatTemplate(
        {"default": "{% if messages | length > 1 %}" + TEN_LOOPS + "{% endfor %}" * 10 + "{% endif %}x"}
    )
    with pytest.raises(RequestError, match="runs for more than"):
        template.render([*CHAT, *CHAT])
    assert template.render(CHAT) == "x"


def test_a_long_conversation_is_within_the_limits() -> None:
    template = ChatTemplate({"default": "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"})
    chat = [{"role": "user", "content": "word " * 500}] * 3_000
    assert template.render(chat) == ("<user>" + "word " * 499 + "word") * 3_000
