"""The index of a large vocabulary: the same ids as the whole tokenizer, without reading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import normalizers, pre_tokenizers

from inflight.build.vocabulary import index_vocabulary
from inflight.engine_format.vocabulary_index import INDEX_NAME
from inflight.runtime.text import loading
from inflight.runtime.text.indexed_backend import IndexedBackend
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from inflight.runtime.text.vocabulary_index import VocabularyIndex
from tests.models.tiny_tokenizers import KINDS, random_text

pytestmark = pytest.mark.unit

CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}


def save(directory: Path, kind: str = "byte_level", **config: Any) -> Path:
    directory.mkdir(exist_ok=True)
    backend = KINDS[kind]()
    backend.add_special_tokens(["<|end|>"])
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({**CONFIG, **config}))
    return directory


def edit(directory: Path, change: Any) -> None:
    description = json.loads((directory / "tokenizer.json").read_text())
    change(description)
    (directory / "tokenizer.json").write_text(json.dumps(description))


def never(directory: Path, config: dict[str, Any]) -> Any:
    raise AssertionError("the whole tokenizer was read")


@pytest.fixture
def indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    assert index_vocabulary(save(tmp_path), at_least=0)
    tokenizer = load_tokenizer(tmp_path, lazily=True)
    monkeypatch.setattr(loading, "_whole_backend", never)
    return tokenizer


def encode_alone(directory: Path, text: str) -> list[int]:
    """By an index from which nothing was asked before."""
    return load_tokenizer(directory, lazily=True).encode(text)


@pytest.mark.parametrize("ignore_merges", [False, True])
@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()], ids=["plain", "nfc"])
def test_texts_have_the_ids_of_the_whole_tokenizer(
    tmp_path: Path, rng: np.random.Generator, ignore_merges: bool, normalizer: normalizers.Normalizer | None
) -> None:
    backend = tokenizers.Tokenizer.from_file(str(save(tmp_path) / "tokenizer.json"))
    backend.normalizer = normalizer
    split = pre_tokenizers.Split(tokenizers.Regex(r" ?\p{L}+|\p{N}|\s+(?!\S)|."), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.save(str(tmp_path / "tokenizer.json"))
    edit(tmp_path, lambda description: description["model"].update(ignore_merges=ignore_merges))
    assert index_vocabulary(tmp_path, at_least=0)
    whole = load_tokenizer(tmp_path)
    for _ in range(60):
        text = random_text(rng) + str(rng.choice(["", "<|end|>", "<|end|>a"])) + random_text(rng)
        assert encode_alone(tmp_path, text) == whole.encode(text), text


def test_tokens_and_decoding_need_no_whole_tokenizer(
    tmp_path: Path, indexed: Tokenizer, rng: np.random.Generator
) -> None:
    whole = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for number in range(-1, whole.get_vocab_size() + 2):
        token = whole.id_to_token(number) if number >= 0 else None
        assert indexed.piece(number) == token
        if token is not None:
            assert indexed.token_id(token) == number
    assert indexed.token_id("no such token") is None and indexed.eos_token_id == whole.token_to_id("<|end|>")
    ids = rng.integers(0, whole.get_vocab_size(), 50).tolist()
    detokenizer = indexed.detokenizer()
    assert detokenizer.push(ids) + detokenizer.flush() == whole.decode(ids)


def test_more_than_some_pages_of_text_are_left_to_the_whole_tokenizer(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_vocabulary(save(tmp_path), at_least=0)
    whole, lazy = load_tokenizer(tmp_path), load_tokenizer(tmp_path, lazily=True)
    text = "the quick brown fox " * 500
    assert lazy.encode(text) == whole.encode(text)
    assert lazy.vocab_size == whole.vocab_size
    monkeypatch.setattr(loading, "_whole_backend", never)
    assert lazy.encode("fox") == whole.encode("fox")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("byte_level")])
def test_tokenizers_of_other_kinds_get_no_index(tmp_path: Path, kind: str) -> None:
    assert not index_vocabulary(save(tmp_path, kind), at_least=0)
    assert not (tmp_path / INDEX_NAME).exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["model"].update(unk_token="a"),
        lambda d: d["model"].update(dropout=0.1),
        lambda d: d.update(normalizer={"type": "Lowercase"}),
        lambda d: d["pre_tokenizer"].update(add_prefix_space=True),
        lambda d: d["added_tokens"][0].update(content="\u2581", id=100_000),
    ],
    ids=["unknown token", "dropout", "lower case", "prefix space", "one character"],
)
def test_what_could_make_other_ids_gets_no_index(tmp_path: Path, change: Any) -> None:
    edit(save(tmp_path), change)
    assert not index_vocabulary(tmp_path, at_least=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(model=[]),
        lambda d: d.update(added_tokens=None),
        lambda d: d["added_tokens"][0].pop("content"),
        lambda d: d["model"].pop("vocab"),
        lambda d: d["model"].update(merges=["abc"]),
        lambda d: d.update(pre_tokenizer="ByteLevel"),
    ],
    ids=["model", "added tokens", "content", "no vocabulary", "merge", "pre-tokenizer"],
)
def test_a_tokenizer_of_another_form_gets_no_index(tmp_path: Path, change: Any) -> None:
    edit(save(tmp_path), change)
    assert not index_vocabulary(tmp_path, at_least=0)
    assert not (tmp_path / INDEX_NAME).exists()


def test_small_and_missing_and_broken_tokenizers_get_no_index(tmp_path: Path) -> None:
    assert not index_vocabulary(save(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    assert not index_vocabulary(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert not index_vocabulary(tmp_path)


def test_a_truncated_index_is_not_used(tmp_path: Path, rng: np.random.Generator) -> None:
    index_vocabulary(save(tmp_path), at_least=0)
    contents = (tmp_path / INDEX_NAME).read_bytes()
    for kept in [*range(50), *rng.integers(50, len(contents), 200).tolist(), len(contents) - 1]:
        (tmp_path / INDEX_NAME).write_bytes(contents[:kept])
        with pytest.raises((ValueError, OSError)):
            VocabularyIndex(tmp_path / INDEX_NAME)
    assert not isinstance(load_tokenizer(tmp_path, lazily=True).backend, IndexedBackend)


def test_tokens_that_only_the_config_names_are_left_to_the_whole_tokenizer(tmp_path: Path) -> None:
    index_vocabulary(save(tmp_path, pad_token="<pad-of-the-config>"), at_least=0)
    lazy = load_tokenizer(tmp_path, lazily=True)
    assert not isinstance(lazy.backend, IndexedBackend)
    assert lazy.pad_token_id == load_tokenizer(tmp_path).pad_token_id is not None


def test_the_same_tokenizer_gives_the_same_index(tmp_path: Path) -> None:
    index_vocabulary(save(tmp_path), at_least=0)
    contents = (tmp_path / INDEX_NAME).read_bytes()
    index_vocabulary(tmp_path, at_least=0)
    assert (tmp_path / INDEX_NAME).read_bytes() == contents
