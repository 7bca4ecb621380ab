"""End tokens: the union of what generation_config.json, config.json and the tokenizer name, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.source.tokenizer_end import tokenizer_end_token
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.models.tiny_tokenizers import CORPUS, KINDS, byte_level

pytestmark = pytest.mark.unit


def converted_ends(directory: Path, rng: np.random.Generator, config: dict[str, Any], **files: Any) -> tuple[int, ...]:
    """The end tokens of the checkpoint of a model with `config` and JSON files of these names."""
    write_model(directory / "model", config, random_tensors(config, rng))
    for name, content in files.items():
        (directory / "model" / f"{name}.json").write_text(json.dumps(content))
    convert_model(directory / "model", directory / "checkpoint")
    facts = Checkpoint.open(directory / "checkpoint").config.inflight
    assert facts is not None
    return facts.end_token_ids


def test_end_tokens_are_the_union(tmp_path: Path, rng: np.random.Generator) -> None:
    """As after a ChatML fine-tune of a base model: the tokenizer's end is in neither config."""
    backend = byte_level()
    backend.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    first, last = (int(backend.token_to_id(token) or 0) for token in ("<|endoftext|>", "<|im_end|>"))
    tokenizer = {
        "tokenizer": json.loads(backend.to_str()),
        "tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"},
    }
    base = tiny_config(vocab_size=backend.get_vocab_size(), eos_token_id=first)
    assert converted_ends(tmp_path / "a", rng, base, **tokenizer) == (first, last)
    generation = {"generation_config": {"eos_token_id": [7, first]}}
    assert converted_ends(tmp_path / "b", rng, base, **tokenizer, **generation) == (7, first, last)
    # Of the tokens that a tokenizer merely has, none ends anything.
    config = {**tokenizer["tokenizer_config"], "eos_token": None, "additional_special_tokens": ["<|im_end|>"]}
    assert converted_ends(tmp_path / "c", rng, base, **{**tokenizer, "tokenizer_config": config}) == (first,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_object", [False, True])
def test_the_tokenizers_end_is_that_of_transformers(kind: str, as_object: bool, tmp_path: Path) -> None:
    backend = KINDS[kind]()
    for name in ("</s>", next(iter(backend.get_vocab(with_added_tokens=False)))):
        backend.save(str(tmp_path / "tokenizer.json"))
        eos = {"__type": "AddedToken", "content": name, "normalized": False} if as_object else name
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        assert tokenizer_end_token(tmp_path) == AutoTokenizer.from_pretrained(tmp_path).eos_token_id


def test_the_end_of_what_transformers_saves_is_found(tmp_path: Path) -> None:
    saved = PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token="<new end>")
    saved.save_pretrained(tmp_path)
    assert tokenizer_end_token(tmp_path) == saved.eos_token_id


def test_the_end_of_a_lone_sentencepiece_model_is_found(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(CORPUS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "tokenizer"), vocab_size=120, hard_vocab_limit=False
    )
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>"}))
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert tokenizer_end_token(tmp_path) == model.eos_id()


def damage_everything(directory: Path) -> None:
    for name in ("tokenizer_config.json", "tokenizer.json", "vocab.json", "tokenizer.model"):
        (directory / name).write_bytes(b"\xff{[")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda directory: None,
        damage_everything,
        lambda directory: (directory / "tokenizer_config.json").write_text('{"eos_token": 5}'),
        lambda directory: (directory / "tokenizer_config.json").write_text('{"eos_token": "absent"}'),
        lambda directory: (directory / "tokenizer_config.json").write_text("[" * 100_000),
    ],
)
def test_a_tokenizer_that_says_nothing_has_no_end(spoil: Callable[[Path], Any], tmp_path: Path) -> None:
    spoil(tmp_path)
    assert tokenizer_end_token(tmp_path) is None


@pytest.mark.parametrize("named", [False, True])
def test_convert_says_when_nothing_would_end_an_answer(named: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config(eos_token_id=2 if named else None)
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    words = ["convert", str(tmp_path / "model"), "-o", str(tmp_path / "checkpoint")]
    result = CliRunner().invoke(build_app(["convert"]), words, catch_exceptions=False)
    assert ("names no end token" in result.stderr) != named
