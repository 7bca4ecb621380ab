"""The tokenizer, loaded without transformers, gives what transformers gives."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, GPT2Tokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from inflight.errors import RequestError
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.tokenizer import TokenIdsOnly, Tokenizer, load_tokenizer
from inflight.runtime.text.words import with_bad_word_ids, word_ids
from tests.models.tiny_tokenizers import KINDS, byte_fallback, byte_level, random_ids, random_text

pytestmark = pytest.mark.unit

NAMED = {"bos_token": "<s>", "eos_token": "</s>"}

PLAIN_TEMPLATE = """{{ bos_token }}{% for message in messages %}
{{ '<' + message.role + '>' + message['content'] | trim }}{% endfor %}
{% if add_generation_prompt %}<assistant>{% endif %}"""

RICH_TEMPLATE = """
{%- set ns = namespace(system='none') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set ns.system = message.content %}
        {%- continue %}
    {%- endif %}
    {%- if message.role not in ['user', 'assistant', 'tool'] %}
        {{- raise_exception('Unexpected role: ' + message.role) }}
    {%- endif %}
    {%- if message.tool_calls is defined %}
        {{- message.tool_calls | tojson(indent=2) }}
    {%- endif %}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{ message.content }}{{ eos_token }}{%- endgeneration %}
    {%- elif message.content is string %}
        {{- '[' + message.content + ']' }}
    {%- else %}
        {%- for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}
    {%- endif %}
{%- endfor %}
{{- tools | tojson if tools else 'no tools' }} {{ ns.system }} {{ strftime_now('%Y') }} {{ enable_thinking }}
{%- if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"""

TOOLS = [{"type": "function", "function": {"name": "add", "description": "a < b & 'c' é", "parameters": {}}}]
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be <brief>."},
    {"role": "user", "content": "Hi & bye 👋"},
    {"role": "assistant", "content": "Hello", "tool_calls": None},
    {"role": "user", "content": [{"type": "text", "text": "parts"}, {"type": "image"}]},
]


def save(directory: Path, kind: str, **config: Any) -> Path:
    """A tokenizer directory as a Hugging Face model has it."""
    directory.mkdir(exist_ok=True)
    KINDS[kind]().save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | NAMED | config
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def has_byte_tokens(tokenizer: Tokenizer, ids: list[int]) -> bool:
    return any((tokenizer.piece(token_id) or "").startswith("<0x") for token_id in ids)


def assert_same(mine: Tokenizer, theirs: Any, rng: np.random.Generator) -> None:
    assert mine.vocab_size == len(theirs)
    assert (mine.bos_token_id, mine.eos_token_id, mine.pad_token_id) == (
        theirs.bos_token_id,
        theirs.eos_token_id,
        theirs.pad_token_id,
    )
    for _ in range(60):
        text = random_text(rng) + str(rng.choice(["", "<s>x</s> y", "<think> z", " <extra>a"]))
        for special in (True, False):
            assert mine.encode(text, special) == theirs.encode(text, add_special_tokens=special), text
        ids = [token_id for token_id in random_ids(rng, mine.backend) if token_id >= 0]
        for skip in (True, False):
            expected = theirs.decode(ids, skip_special_tokens=skip)
            # Runs of broken bytes are not read as the library reads them: test_detokenizer.py has their rule.
            if "\ufffd" not in expected or not has_byte_tokens(mine, ids):
                assert mine.decode(ids, skip) == expected, ids


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_text_are_those_of_transformers(kind: str, tmp_path: Path, rng: np.random.Generator) -> None:
    directory = save(tmp_path, kind)
    assert_same(load_tokenizer(directory), AutoTokenizer.from_pretrained(directory), rng)


@pytest.mark.parametrize(
    "config",
    [
        {"additional_special_tokens": ["<extra>"]},
        {"extra_special_tokens": ["<extra>"], "pad_token": "<new pad>"},
        {"pad_token": {"__type": "AddedToken", "content": "<pad>", "lstrip": True, "normalized": False}},
        {"add_bos_token": False, "add_eos_token": True},
    ],
)
def test_tokens_that_only_the_config_names_are_added_as_transformers_adds_them(
    config: dict[str, Any], tmp_path: Path, rng: np.random.Generator
) -> None:
    directory = save(tmp_path, "byte_level", **config)
    assert_same(load_tokenizer(directory), AutoTokenizer.from_pretrained(directory), rng)


def test_listed_added_tokens_come_in_the_order_of_their_ids(tmp_path: Path, rng: np.random.Generator) -> None:
    size = byte_level().get_vocab_size()
    listed = {
        str(size + 1): {"content": "<second>", "special": False, "normalized": True, "lstrip": False, "rstrip": True},
        str(size): {"content": "<first>", "special": True, "normalized": False, "lstrip": False, "rstrip": False},
    }
    directory = save(tmp_path, "byte_level", added_tokens_decoder=listed)
    mine = load_tokenizer(directory)
    assert (mine.token_id("<first>"), mine.token_id("<second>")) == (size, size + 1)
    assert_same(mine, AutoTokenizer.from_pretrained(directory), rng)


def test_named_tokens_may_come_from_the_special_tokens_map(tmp_path: Path, rng: np.random.Generator) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "</s>"})
    )
    assert_same(load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path), rng)


def test_a_class_that_builds_its_own_pipeline_is_loaded_through_transformers(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    described = json.loads(byte_fallback().to_str())["model"]
    merges = [tuple(merge) for merge in described["merges"]]
    LlamaTokenizer(vocab=described["vocab"], merges=merges).save_pretrained(tmp_path)
    assert_same(load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path), rng)


@pytest.mark.parametrize("byte_level_class", [GPT2Tokenizer, Qwen2Tokenizer])
def test_byte_level_classes_need_no_transformers(
    byte_level_class: Any, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = json.loads(byte_level().to_str())["model"]
    merges = [tuple(merge) for merge in described["merges"]]
    byte_level_class(vocab=described["vocab"], merges=merges).save_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert_same(load_tokenizer(tmp_path), theirs, rng)


def test_what_transformers_saves_can_be_loaded(tmp_path: Path, rng: np.random.Generator) -> None:
    saved = PreTrainedTokenizerFast(tokenizer_object=byte_level(), pad_token="<pad>", chat_template="x", **NAMED)
    saved.save_pretrained(tmp_path)
    assert_same(load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path), rng)


def test_truncation_and_padding_of_training_are_off(tmp_path: Path) -> None:
    backend = byte_level()
    backend.enable_truncation(5)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    text = "The quick brown fox jumps over the lazy dog"
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_loading_and_using_a_tokenizer_imports_no_transformers(tmp_path: Path) -> None:
    save(tmp_path, "byte_level", chat_template=PLAIN_TEMPLATE)
    script = (
        "import sys; from pathlib import Path; from inflight.runtime.text.tokenizer import load_tokenizer\n"
        "load_tokenizer(Path(sys.argv[1])).encode_chat([{'role': 'user', 'content': 'Hi'}])\n"
        "assert not {'transformers', 'torch', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, RICH_TEMPLATE])
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("prompt", [True, False])
def test_chat_prompts_are_those_of_transformers(template: str, tools: Any, prompt: bool, tmp_path: Path) -> None:
    directory = save(tmp_path, "byte_level", chat_template=template)
    messages = CONVERSATION if template is RICH_TEMPLATE else CONVERSATION[:3]
    options = {"tools": tools, "add_generation_prompt": prompt, "enable_thinking": False}
    theirs = AutoTokenizer.from_pretrained(directory)
    mine = load_tokenizer(directory)
    assert mine.render_chat(messages, **options) == theirs.apply_chat_template(messages, tokenize=False, **options)
    ids = theirs.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
    assert mine.encode_chat(messages, **options) == ids


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_is_read_under_any_of_its_names(name: str, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.reasoning_content }} {{ m.thinking }} {{ m.reasoning }}|{% endfor %}"
    directory = save(tmp_path, "byte_level", chat_template=template)
    messages = [{"role": "assistant", name: "because"}, {"role": "user", "content": "so"}]
    theirs = AutoTokenizer.from_pretrained(directory).apply_chat_template(messages, tokenize=False)
    assert load_tokenizer(directory).render_chat(messages) == theirs


@pytest.mark.parametrize(
    ("template", "messages", "says"),
    [
        (None, CONVERSATION, "no chat template"),
        (RICH_TEMPLATE, [{"role": "pirate", "content": "Arr"}], "Unexpected role: pirate"),
        ("{{ 'x' + messages[0].content }}", [{"role": "user"}], "does not accept"),
        (PLAIN_TEMPLATE, [{"content": "Hi"}], "Message 0 has no role"),
        (PLAIN_TEMPLATE, [], "at least one message"),
        (PLAIN_TEMPLATE, "Hi", "must be a list"),
        ("{% for %}", CONVERSATION, "cannot be read"),
        ("{{ messages.__class__.__mro__ }}", CONVERSATION, "does not accept"),
    ],
)
def test_what_a_template_refuses_is_said_in_its_own_words(
    template: str | None, messages: Any, says: str, tmp_path: Path
) -> None:
    config = {} if template is None else {"chat_template": template}
    tokenizer = load_tokenizer(save(tmp_path, "byte_level", **config))
    with pytest.raises(RequestError, match=says):
        tokenizer.render_chat(messages)


def test_many_threads_may_use_one_tokenizer(tmp_path: Path, rng: np.random.Generator) -> None:
    tokenizer = load_tokenizer(save(tmp_path, "byte_fallback", chat_template=PLAIN_TEMPLATE))
    texts = [random_text(rng) for _ in range(200)]

    def work(text: str) -> tuple[list[int], str, str]:
        ids = tokenizer.encode(text)
        detokenizer = tokenizer.detokenizer()
        streamed = "".join([detokenizer.push([token_id]) for token_id in ids]) + detokenizer.flush()
        return ids, streamed, tokenizer.render_chat([{"role": "user", "content": text}])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, texts)) == [work(text) for text in texts]


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback_without_strip"])
def test_the_bytes_of_tokens_joined_are_the_text(kind: str, rng: np.random.Generator) -> None:
    tokenizer = Tokenizer(KINDS[kind]())
    for _ in range(100):
        text = random_text(rng).replace("▁", "_")
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "byte_fallback_without_strip", "unigram"])
def test_bad_words_are_spelled_with_and_without_a_space(kind: str) -> None:
    tokenizer = Tokenizer(KINDS[kind]())
    spelled = word_ids(tokenizer, "fox")
    inside = tokenizer.encode("the fox", add_special_tokens=False)
    assert any(tuple(inside[-len(ids) :]) == ids for ids in spelled)
    assert all("fox" in tokenizer.decode(ids) for ids in spelled)
    listed: Any = [[7]]
    params = with_bad_word_ids(tokenizer, SamplingParams(bad_words=["fox"], bad_word_ids=listed))
    assert params.bad_word_ids == ((7,), *spelled)


def test_what_is_no_text_and_what_is_no_token_are_handled() -> None:
    tokenizer = Tokenizer(byte_level())
    with pytest.raises(RequestError, match="surrogate"):
        tokenizer.encode("a\ud83d")
    assert tokenizer.decode([-1, 2**40]) == ""
    assert tokenizer.detokenizer().push([-1, 2**40]) == ""


def test_an_engine_without_a_tokenizer_has_ids_and_no_text() -> None:
    tokenizer = TokenIdsOnly()
    assert tokenizer.decode([1, 2, 3]) == ""
    assert tokenizer.detokenizer().push([1, 2, 3]) == ""
    with pytest.raises(RequestError, match="no tokenizer"):
        tokenizer.encode("text")
