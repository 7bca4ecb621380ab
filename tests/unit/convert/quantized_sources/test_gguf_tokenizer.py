"""The tokenizer of a GGUF file gives text the ids that the model's own gave it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import pre_tokenizers

from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.errors import ModelError
from inflight.runtime.text.tokenizer import load_tokenizer
from tests.models.gguf_files import gguf_names, write_gguf
from tests.models.hf_files import random_tensors, tiny_config
from tests.models.tiny_tokenizers import byte_fallback_without_strip, byte_level, random_text

pytest.importorskip("gguf", reason="the gguf package is not installed")
pytestmark = pytest.mark.unit
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def metadata(backend: tokenizers.Tokenizer, model: str, **further: Any) -> dict[str, Any]:
    """The keys that llama.cpp's converter writes of a tokenizer."""
    described = json.loads(backend.to_str())
    added = {token["content"]: token["special"] for token in described["added_tokens"]}
    tokens = [str(backend.id_to_token(i)) for i in range(backend.get_vocab_size())]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in described["model"]["merges"]]

    def kind(token: str) -> int:
        if token in added:
            return UNKNOWN if token == "<unk>" else CONTROL if added[token] else USER_DEFINED
        return BYTE if model == "llama" and token.startswith("<0x") else NORMAL

    ids = {name: backend.token_to_id(token) for name, token in (("bos", "<s>"), ("eos", "</s>"))}
    return {
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [kind(token) for token in tokens],
        "tokenizer.ggml.merges": merges,
        **{f"tokenizer.ggml.{name}_token_id": number for name, number in ids.items()},
        "tokenizer.chat_template": TEMPLATE,
        **{f"tokenizer.ggml.{key}": value for key, value in further.items()},
    }


def converted(tmp_path: Path, rng: np.random.Generator, size: int, keys: dict[str, Any]) -> tuple[list[str], Path]:
    config = tiny_config(num_hidden_layers=1, vocab_size=size)
    tensors = random_tensors(config, rng)
    names = gguf_names(config, list(tensors))
    write_gguf(tmp_path / "model.gguf", config, {names[name]: (tensor, None) for name, tensor in tensors.items()}, keys)
    return convert_model(tmp_path / "model.gguf", tmp_path / "out"), tmp_path / "out"


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "unheard-of"])
@pytest.mark.parametrize("begun", [True, False])
def test_byte_level_text_gets_the_same_ids(tmp_path: Path, rng: np.random.Generator, pre: str, begun: bool) -> None:
    backend = byte_level()
    if pre == "smollm":
        pieces = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        backend.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    keys = metadata(backend, "gpt2", pre=pre, add_bos_token=begun)
    notes, checkpoint = converted(tmp_path, rng, backend.get_vocab_size(), keys)
    assert any("'unheard-of'" in note for note in notes) == (pre == "unheard-of") == bool(notes)
    stored = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer" / "tokenizer.json"))
    assert stored.get_vocab_size(with_added_tokens=True) == backend.get_vocab_size(with_added_tokens=True)
    tokenizer = load_tokenizer(checkpoint / "tokenizer")
    for text in [random_text(rng) + " 12345 and 67" for _ in range(30)]:
        assert tokenizer.encode(text, add_special_tokens=False) == backend.encode(text, add_special_tokens=False).ids
        assert (tokenizer.encode(text)[0] == tokenizer.bos_token_id) == begun
    assert tokenizer.render_chat([{"role": "user", "content": "hi"}], add_generation_prompt=True) == "hi"
    facts = Checkpoint.open(checkpoint).config.inflight
    assert facts is not None and facts.end_token_ids == (backend.token_to_id("</s>"),)


def test_sentencepiece_text_gets_the_same_ids_and_a_first_token(tmp_path: Path, rng: np.random.Generator) -> None:
    backend = byte_fallback_without_strip()
    keys = metadata(
        backend, "llama", scores=[float(-i) for i in range(backend.get_vocab_size())], add_space_prefix=False
    )
    _, checkpoint = converted(tmp_path, rng, backend.get_vocab_size(), keys)
    tokenizer = load_tokenizer(checkpoint / "tokenizer")
    found = tokenizer.encode("The quick brown fox")
    assert found[0] == tokenizer.bos_token_id
    assert tokenizer.decode(found) == "The quick brown fox"


def test_several_end_tokens_and_none_at_all(tmp_path: Path, rng: np.random.Generator) -> None:
    backend = byte_level()
    other = backend.token_to_id("<think>")
    keys = metadata(backend, "gpt2", pre="gpt-2", eot_token_id=other)
    _, checkpoint = converted(tmp_path, rng, backend.get_vocab_size(), keys)
    facts = Checkpoint.open(checkpoint).config.inflight
    assert facts is not None and facts.end_token_ids == (backend.token_to_id("</s>"), other)


def test_a_file_without_a_tokenizer_converts_without_one(tmp_path: Path, rng: np.random.Generator) -> None:
    _, checkpoint = converted(tmp_path, rng, 37, {})
    assert Checkpoint.open(checkpoint).tokenizer_directory is None


@pytest.mark.parametrize(("model", "lost"), [("gpt2", "merges"), ("llama", "scores"), ("gpt2", "model")])
def test_a_part_of_a_tokenizer_that_is_missing_is_named(
    tmp_path: Path, rng: np.random.Generator, model: str, lost: str
) -> None:
    backend = byte_level() if model == "gpt2" else byte_fallback_without_strip()
    keys = metadata(backend, model)
    keys |= {"tokenizer.ggml.scores": [0.0] * backend.get_vocab_size()} if model == "llama" else {}
    del keys[f"tokenizer.ggml.{lost}"]
    if model == "llama":
        del keys["tokenizer.ggml.merges"]
    with pytest.raises(ModelError, match=rf"there is no tokenizer\.ggml\.{lost}\."):
        converted(tmp_path, rng, backend.get_vocab_size(), keys)


@pytest.mark.parametrize(("key", "value"), [("model", "odd"), ("merges", ["no merge at all"]), ("tokens", [1, 2])])
def test_a_tokenizer_that_is_none_is_named(tmp_path: Path, rng: np.random.Generator, key: str, value: Any) -> None:
    backend = byte_level()
    keys = metadata(backend, "gpt2", pre="gpt-2") | {f"tokenizer.ggml.{key}": value}
    with pytest.raises(ModelError, match="tokenizer"):
        converted(tmp_path, rng, backend.get_vocab_size(), keys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["scores", "token_type"])
def test_a_tokenizer_with_another_number_of_facts_than_of_tokens_is_refused(
    tmp_path: Path, rng: np.random.Generator, key: str
) -> None:
    backend = byte_fallback_without_strip()
    keys = metadata(backend, "llama") | {"tokenizer.ggml.scores": [0.0] * backend.get_vocab_size()}
    del keys["tokenizer.ggml.merges"]
    keys[f"tokenizer.ggml.{key}"] = keys[f"tokenizer.ggml.{key}"][: rng.integers(1, backend.get_vocab_size())]
    with pytest.raises(
        ModelError, match=rf"tokenizer\.ggml\.{key} has \d+ values for {backend.get_vocab_size()} tokens"
    ):
        converted(tmp_path, rng, backend.get_vocab_size(), keys)
