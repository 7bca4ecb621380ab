"""Tokenizers are tried when a model is converted; a lone tokenizer.model becomes a tokenizer.json of the same ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
from transformers import AutoTokenizer

from inflight.convert.api import convert_model
from inflight.convert.source.tokenizer_files import ids_of_tokens
from inflight.errors import ModelError
from inflight.runtime.text.tokenizer import load_tokenizer
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.models.tiny_tokenizers import CORPUS, byte_level, random_text

pytestmark = pytest.mark.unit


def model(directory: Path, rng: np.random.Generator, **changes: Any) -> Path:
    config = tiny_config(hidden_size=24, **changes)
    return write_model(directory / "model", config, random_tensors(config, rng))


def train(directory: Path, kind: str, **options: Any) -> sentencepiece.SentencePieceProcessor:
    """A tokenizer.model in `directory`, trained as those of Llama and Mistral."""
    lines = [line for text in CORPUS for line in text.split("\n") if line]
    options = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, **options}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(directory / "tokenizer"),
        model_type=kind,
        vocab_size=380,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
        **options,
    )
    (directory / "tokenizer.vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("configured", [True, False], ids=["with-config", "alone"])
@pytest.mark.parametrize("prefix", [True, False], ids=["dummy-prefix", "no-prefix"])
def test_a_lone_sentencepiece_model_gives_its_own_ids(
    tmp_path: Path, rng: np.random.Generator, kind: str, configured: bool, prefix: bool
) -> None:
    directory = model(tmp_path, rng, vocab_size=400)
    pieces = train(directory, kind, add_dummy_prefix=prefix)
    if configured:
        config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
        config["chat_template"] = "{{ messages[0].content }}"
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    assert convert_model(directory, tmp_path / "out") == []
    tokenizer = load_tokenizer(tmp_path / "out" / "tokenizer")
    for _ in range(100):
        text = random_text(rng)
        expected = pieces.encode(text)
        assert tokenizer.encode(text, add_special_tokens=False) == expected, text
        before = [pieces.bos_id()] if configured else []
        assert tokenizer.encode(text) == before + expected
        assert tokenizer.decode(expected) == pieces.decode(expected)
    if configured:
        assert tokenizer.eos_token_id == pieces.eos_id()
        assert tokenizer.render_chat([{"role": "user", "content": "hi"}]) == "hi"


def test_a_lone_spm_model_has_the_pairs_of_transformers(tmp_path: Path, rng: np.random.Generator) -> None:
    """As DeBERTa has it: special tokens and kinds of two texts are those that its class gives them."""
    directory = model(tmp_path, rng, vocab_size=400)
    names: dict[str, Any] = {f"{name}_id": place for place, name in enumerate(("pad", "bos", "eos", "unk"))}
    names |= {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    train(directory, "unigram", normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True, **names)
    (directory / "tokenizer.model").rename(directory / "spm.model")
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "DebertaV2Tokenizer"}))
    judge: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    assert convert_model(directory, tmp_path / "out") == []
    found = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer" / "tokenizer.json"))
    for _ in range(30):
        # Bytes of what no piece has are the model's here, and unknown to that class.
        counts, words = rng.integers(1, 9, 2).tolist(), ["the", "lazy", "dog", "fox"]
        first, second = (" ".join(rng.choice(words, count)) for count in counts)
        expected, pair = judge(first, second), found.encode(first, second)
        assert pair.ids == expected["input_ids"] and pair.ids.count(2) == 2
        assert pair.type_ids == expected["token_type_ids"]


def test_a_sentencepiece_model_that_folds_characters_has_its_own_ids_or_is_refused(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """Its tables of characters are carried over, and not every one of them is followed to the letter."""
    directory = model(tmp_path, rng, vocab_size=400)
    train(directory, "bpe", normalization_rule_name="nmt_nfkc_cf")
    try:
        convert_model(directory, tmp_path / "out")
    except ModelError as error:
        assert "SentencePiece gives" in str(error)
    else:
        tokenizer = load_tokenizer(tmp_path / "out" / "tokenizer")
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
        assert tokenizer.encode("The ÅSTRÖM", add_special_tokens=False) == pieces.encode("The ÅSTRÖM")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
@pytest.mark.parametrize("content", [b"", b"{}", b"garbage", b"[" * 100_000, bytes(range(256)) * 9])
def test_files_that_are_no_tokenizer_are_noticed(
    tmp_path: Path, rng: np.random.Generator, name: str, content: bytes
) -> None:
    directory = model(tmp_path, rng)
    (directory / name).write_bytes(content)
    with pytest.raises(ModelError, match="tokenizer"):
        convert_model(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_vocabulary_is_noticed(tmp_path: Path, rng: np.random.Generator) -> None:
    directory = model(tmp_path, rng)
    facts = json.loads(byte_level().to_str())
    facts["added_tokens"], facts["post_processor"] = [], None
    facts["model"] = {**facts["model"], "vocab": {}, "merges": []}
    (directory / "tokenizer.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match="makes no token of"):
        convert_model(directory, tmp_path / "out")


def test_tokens_beyond_the_vocabulary_are_named(tmp_path: Path, rng: np.random.Generator) -> None:
    backend = byte_level()
    size = backend.get_vocab_size(with_added_tokens=True)
    directory = model(tmp_path, rng, vocab_size=size - 2)
    backend.save(str(directory / "tokenizer.json"))
    (note,) = convert_model(directory, tmp_path / "out")
    assert f"2 token(s) beyond the model's vocabulary of {size - 2}" in note
    for token_id in (size - 2, size - 1):
        assert f"{backend.id_to_token(token_id)!r} ({token_id})" in note


@pytest.mark.parametrize(
    "model",
    [
        tokenizers.models.WordLevel({"<none>": 0, "yes": 1, "hello": 2}, unk_token="<none>"),
        tokenizers.models.Unigram([("<none>", 0.0), ("yes", -1.0), ("hello", -2.0)], unk_id=0),
    ],
    ids=["words", "unigrams"],
)
def test_tokens_to_score_by_are_known_and_differ(model: Any, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = tokenizers.normalizers.Lowercase()
    backend.save(str(tmp_path / "tokenizer.json"))
    assert ids_of_tokens(tmp_path, ["Yes", "hello"]) == {"Yes": 1, "hello": 2}
    with pytest.raises(ModelError, match="'七' is not in the vocabulary"):
        ids_of_tokens(tmp_path, ["yes", "七"])
    with pytest.raises(ModelError, match="'yes' and 'Yes' are one token"):
        ids_of_tokens(tmp_path, ["yes", "Yes"])
