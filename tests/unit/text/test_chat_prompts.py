"""Chat prompts are those of transformers, also where its options say how a conversation goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai.types.chat import ChatCompletionMessage
from transformers import AutoTokenizer

from inflight.errors import RequestError
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from tests.models.tiny_tokenizers import byte_level, random_text

pytestmark = pytest.mark.unit

KEEPS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
TRIMS = "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}</s>{% endfor %}"
PARTS = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}</s>{% endfor %}"
BOTH = (
    "{% macro show(c) %}{% if c is string %}{{ c }}{% else %}{% for p in c %}{% if p['type'] == 'text' %}"
    "{{ p['text'] }}{% endif %}{% endfor %}{% endif %}{% endmacro %}"
    "{% for m in messages %}[{{ m.role }}]{{ show(m.content) }}</s>{% endfor %}"
)
WITH_DOCUMENTS = "{% for d in documents or [] %}{{ d.title }}: {{ d['text'] }}\n{% endfor %}" + KEEPS


def save(directory: Path, template: str) -> Path:
    byte_level().save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    return directory


def random_chat(rng: np.random.Generator) -> list[dict[str, Any]]:
    roles = ["user", "assistant"] * int(rng.integers(1, 4))
    return [{"role": role, "content": "x" + random_text(rng) + " " * int(rng.integers(0, 3))} for role in roles]


def in_parts(rng: np.random.Generator, text: str) -> list[dict[str, Any]]:
    cut = int(rng.integers(0, len(text)))
    return [{"type": "text", "text": text[:cut]}, {"type": "text", "text": text[cut:]}]


@pytest.mark.parametrize("template", [KEEPS, TRIMS, BOTH, WITH_DOCUMENTS])
def test_the_last_message_is_continued_as_in_transformers(
    template: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    mine, theirs = load_tokenizer(save(tmp_path, template)), AutoTokenizer.from_pretrained(tmp_path)
    for _ in range(20):
        chat = random_chat(rng)
        if template is BOTH and rng.random() < 0.5:
            chat[-1]["content"] = in_parts(rng, chat[-1]["content"])
        options = {"continue_final_message": True, "add_generation_prompt": False}
        assert mine.encode_chat(chat, **options) == theirs.apply_chat_template(chat, return_dict=False, **options)


def test_what_cannot_be_continued_is_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, "{{ messages[0].content }}"))
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    with pytest.raises(RequestError, match="add_generation_prompt to false"):
        tokenizer.render_chat(chat, continue_final_message=True)
    with pytest.raises(RequestError, match="does not show the last message"):
        tokenizer.render_chat(chat, continue_final_message=True, add_generation_prompt=False)
    for content in (None, [{"type": "image"}]):
        with pytest.raises(RequestError, match=r"no text that could be continued|takes text only"):
            tokenizer.render_chat(
                [{"role": "user", "content": content}], continue_final_message=True, add_generation_prompt=False
            )


def test_documents_reach_the_template(tmp_path: Path, rng: np.random.Generator) -> None:
    mine, theirs = load_tokenizer(save(tmp_path, WITH_DOCUMENTS)), AutoTokenizer.from_pretrained(tmp_path)
    documents = [{"title": random_text(rng), "text": random_text(rng)} for _ in range(3)]
    chat = random_chat(rng)
    for given in (None, [], documents):
        expected = theirs.apply_chat_template(chat, documents=given, tokenize=False)
        assert mine.render_chat(chat, documents=given, add_generation_prompt=False) == expected
    wrong: Any = ["text"]
    with pytest.raises(RequestError, match="documents must be a list of objects"):
        mine.render_chat(chat, documents=wrong)


def test_special_tokens_are_added_when_they_are_asked_for(tmp_path: Path, rng: np.random.Generator) -> None:
    tokenizer, chat = load_tokenizer(save(tmp_path, KEEPS)), random_chat(rng)
    prompt = tokenizer.render_chat(chat)
    for wanted in (False, True):
        assert tokenizer.encode_chat(chat, add_special_tokens=wanted) == tokenizer.encode(prompt, wanted)
    assert tokenizer.encode_chat(chat) != tokenizer.encode_chat(chat, add_special_tokens=True)


@pytest.mark.parametrize("template", [KEEPS, TRIMS, PARTS, BOTH])
def test_content_in_parts_reads_as_the_template_takes_it(
    template: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Joined for a template of strings, as it is for one that knows parts, which transformers then agrees with."""
    mine, theirs = load_tokenizer(save(tmp_path, template)), AutoTokenizer.from_pretrained(tmp_path)
    chat = random_chat(rng)
    parts = [{**message, "content": in_parts(rng, message["content"])} for message in chat]
    same = parts if template in (PARTS, BOTH) else chat
    rendered = mine.render_chat(parts, add_generation_prompt=False)
    assert rendered == theirs.apply_chat_template(same, tokenize=False)
    spelled = [{**m, "content": [{**part, "type": "input_text"} for part in m["content"]]} for m in parts]
    assert mine.render_chat(spelled, add_generation_prompt=False) == rendered


def test_a_part_that_is_no_text_is_refused_by_name_where_only_strings_are_taken(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, KEEPS))
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    for part in (image, {"type": "text"}, {"type": "text", "text": 3}, 7):
        with pytest.raises(RequestError, match=r"Message 0 has a content part of type .*takes text only"):
            tokenizer.render_chat([{"role": "user", "content": [{"type": "text", "text": "a"}, part]}])


def test_developer_is_system_to_a_template_that_does_not_name_it(tmp_path: Path, rng: np.random.Generator) -> None:
    chat = [{"role": "developer", "content": "Be brief."}, *random_chat(rng)]
    as_system = [{**chat[0], "role": "system"}, *chat[1:]]
    strict = "{% if messages[0].role not in ['system', 'user'] %}{{ raise_exception('role') }}{% endif %}" + KEEPS
    tokenizer = load_tokenizer(save(tmp_path, strict))
    assert tokenizer.render_chat(chat) == tokenizer.render_chat(as_system)
    assert "<system>Be brief." in tokenizer.render_chat(chat)
    (tmp_path / "chat_template.jinja").write_text("{% if messages[0].role == 'developer' %}D{% endif %}" + KEEPS)
    assert load_tokenizer(tmp_path).render_chat(chat).startswith("D<developer>Be brief.")


def test_an_answer_of_the_openai_package_is_a_message(tmp_path: Path) -> None:
    tokenizer: Tokenizer = load_tokenizer(save(tmp_path, KEEPS))
    answer: Any = ChatCompletionMessage(role="assistant", content="Hello", refusal=None, tool_calls=None)
    plain = {"role": "assistant", "content": "Hello"}
    question = {"role": "user", "content": "Hi"}
    assert tokenizer.render_chat([question, answer, question]) == tokenizer.render_chat([question, plain, question])
