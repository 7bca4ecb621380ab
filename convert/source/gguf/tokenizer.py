"""The tokenizer in the metadata of a GGUF file, written as tokenizer.json, with its chat template beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inflight.errors import ModelError

_PREFIX = "tokenizer.ggml."
# What transformers' builder of tokenizers calls a key of the metadata.
_KEYS = {
    "tokenizer_type": "model",
    "pre_tokenizer_type": "pre",
    "tokens": "tokens",
    "scores": "scores",
    "token_type": "token_type",
    "merges": "merges",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "unk_token_id": "unknown_token_id",
    "pad_token_id": "padding_token_id",
    "add_prefix_space": "add_space_prefix",
}
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
# As llama.cpp's llama-vocab.cpp has them, by the name of the splitting in the file: those that begin every text with
# the first token unless the file says otherwise, and take a whole word that is a token before any merge; those that
# split off every digit and then as GPT-2; and those that split as another does.
_BEGUN = ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken")
_BY_DIGIT = ("smollm", "starcoder", "refact", "command-r")
_SAME_AS = {"stablelm2": "qwen2"}
_GPT2 = ("default", "gpt-2", "gpt2", "phi-2", "jina-es", "jina-de", "mpt", "olmo")


def write_gguf_tokenizer(file: Path, metadata: Mapping[str, Any], target: Path) -> str | None:
    """Write tokenizer.json and what goes with it to the directory `target`; nothing when the file has no tokenizer.
    Returns what a user should know of it. Raises ModelError for one that cannot be read.
    """
    if not metadata.get(f"{_PREFIX}tokens"):
        return None
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    facts = {ours: metadata[_PREFIX + theirs] for ours, theirs in _KEYS.items() if _PREFIX + theirs in metadata}
    split = facts.get("pre_tokenizer_type")
    facts["pre_tokenizer_type"] = _SAME_AS.get(str(split), split)
    logging.set_verbosity_error()
    try:
        backend = _backend(str(metadata["general.architecture"]), facts)
        known = split is None or facts["tokenizer_type"] != "gpt2" or _split(backend, str(split))
        settings = _settings(metadata, facts, str(split))
        tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=backend, **settings)
        tokenizer.save_pretrained(str(target))
    except Exception as error:  # any of the many ways in which a vocabulary can be wrong
        raise ModelError(
            f"{file}: its tokenizer cannot be read: {str(error).rstrip('.')}.", "Convert the model to GGUF again."
        ) from error
    if known:
        return None
    return (
        f"The tokenizer splits text as {split!r}, which is not known here: it splits as GPT-2 does, which may differ."
    )


def _backend(architecture: str, facts: dict[str, Any]) -> Any:
    try:
        from transformers.integrations.gguf import convert_gguf_tokenizer
    except ImportError:
        from transformers.integrations.ggml import convert_gguf_tokenizer

    needed = ("tokenizer_type", *(("merges",) if facts.get("tokenizer_type") == "gpt2" else ()))
    if absent := [_PREFIX + _KEYS[key] for key in needed if key not in facts]:
        raise ValueError(f"there is no {absent[0]}")
    count = len(facts["tokens"])
    for key in ("scores", "token_type"):
        if key in facts and len(facts[key]) != count:
            raise ValueError(f"{_PREFIX}{key} has {len(facts[key])} values for {count} tokens")
    try:
        backend, _ = convert_gguf_tokenizer(architecture, facts)
    except KeyError as error:
        raise ValueError(f"there is no {_PREFIX}{_KEYS.get(error.args[0], error.args[0])}") from error
    return _without_further_tokens(backend, count)


def _without_further_tokens(backend: Any, count: int) -> Any:
    """The builder's classes have special tokens of their own, which the file need not have."""
    if backend.get_vocab_size(with_added_tokens=True) <= count:
        return backend
    from tokenizers import Tokenizer

    described = json.loads(backend.to_str())
    described["added_tokens"] = [token for token in described["added_tokens"] if token["id"] < count]
    return Tokenizer.from_str(json.dumps(described))


def _split(backend: Any, split: str) -> bool:
    """Split text as the file asks, where transformers' builder does not; False when the way is not known."""
    from tokenizers import pre_tokenizers

    if split in _BEGUN:
        backend.model.ignore_merges = True
    if split not in _BY_DIGIT:
        return split in _GPT2 or split in _SAME_AS or isinstance(backend.pre_tokenizer, pre_tokenizers.Sequence)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return True


def _settings(metadata: Mapping[str, Any], facts: Mapping[str, Any], split: str) -> dict[str, Any]:
    """What transformers keeps beside a tokenizer."""
    tokens, settings = facts["tokens"], {}
    for name, kind in _SPECIAL.items():
        index = metadata.get(f"{_PREFIX}{kind}_token_id")
        if isinstance(index, int) and 0 <= index < len(tokens):
            settings[name] = tokens[index]
    begun = facts["tokenizer_type"] == "llama" or split in _BEGUN
    settings["add_bos_token"] = bool(metadata.get(f"{_PREFIX}add_bos_token", begun)) and "bos_token" in settings
    settings["add_eos_token"] = bool(metadata.get(f"{_PREFIX}add_eos_token", False)) and "eos_token" in settings
    template = metadata.get("tokenizer.chat_template")
    return settings | ({"chat_template": template} if isinstance(template, str) else {})
