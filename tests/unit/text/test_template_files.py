"""Chat templates are read from wherever a model may have them, those of transformers' layout first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from inflight.convert.source.tokenizer_files import copy_tokenizer
from inflight.errors import InflightError, RequestError
from inflight.runtime.text.tokenizer import load_tokenizer
from tests.models.tiny_tokenizers import byte_level

pytestmark = pytest.mark.unit

CHAT = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


def save(directory: Path, template: Any = None, legacy: Any = None, **files: str) -> Path:
    """Tokenizer files with the template in tokenizer_config.json, in chat_template.json, and in files NAME.jinja."""
    directory.mkdir(exist_ok=True)
    byte_level().save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | ({} if template is None else {"chat_template": template})
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if legacy is not None:
        (directory / "chat_template.json").write_text(json.dumps({"chat_template": legacy}))
    for name, source in files.items():
        place = directory if name == "chat_template" else directory / "additional_chat_templates"
        place.mkdir(exist_ok=True)
        (place / f"{name}.jinja").write_text(source)
    return directory


@pytest.mark.parametrize(
    "where",
    [
        {"template": "config"},
        {"template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]},
        {"template": "config", "chat_template": "file"},
        {"template": "config", "chat_template": "file", "tool_use": "tools"},
        {"template": "config", "chat_template": "file", "rag": "documents"},
        {
            "template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}],
            "chat_template": "file",
        },
        {"chat_template": "file", "tool_use": "tools", "legacy": "legacy"},
    ],
)
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_the_template_is_that_of_transformers_also_when_converted(where: Any, tools: Any, tmp_path: Path) -> None:
    source = save(tmp_path / "model", **where)
    theirs = AutoTokenizer.from_pretrained(source).apply_chat_template(CHAT, tools=tools, tokenize=False)
    copy_tokenizer(source, tmp_path / "copy")
    for directory in (source, tmp_path / "copy"):
        assert load_tokenizer(directory).render_chat(CHAT, tools=tools) == theirs


def test_what_transformers_saves_is_read(tmp_path: Path, rng: np.random.Generator) -> None:
    sources = {name: f"{name} {rng.integers(1 << 30)}" for name in ("default", "tool_use", "rag")}
    saved = PreTrainedTokenizerFast(tokenizer_object=byte_level(), chat_template=sources)
    saved.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.render_chat(CHAT) == sources["default"]
    assert tokenizer.render_chat(CHAT, tools=TOOLS) == sources["tool_use"]


def test_the_file_of_a_processor_is_read_when_there_is_no_other(tmp_path: Path) -> None:
    assert load_tokenizer(save(tmp_path, legacy="legacy")).render_chat(CHAT) == "legacy"
    assert load_tokenizer(save(tmp_path, template="config", legacy="legacy")).render_chat(CHAT) == "config"


def test_named_templates_stand_beside_the_default_of_the_config(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, template="config", tool_use="tools"))
    assert (tokenizer.render_chat(CHAT), tokenizer.render_chat(CHAT, tools=TOOLS)) == ("config", "tools")


def test_a_model_without_a_default_template_says_which_it_has(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="rag"):
        load_tokenizer(save(tmp_path, rag="documents")).render_chat(CHAT)


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_a_template_file_that_is_no_text_is_named(name: str, tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InflightError, match=name):
        load_tokenizer(tmp_path)
