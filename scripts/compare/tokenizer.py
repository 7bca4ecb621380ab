"""A byte-level BPE tokenizer as large as the model's vocabulary, so that loading it costs what loading a real one does.

Its merges are drawn at random: a text comes out as short tokens, the same ones in every engine.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

LONGEST_TOKEN = 12
# The way Qwen2 and Llama 3 cut text into words, which llama.cpp knows by the name "qwen2".
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_tokenizer(directory: Path, ordinary: int, special: list[str], end_token: str) -> None:
    """Write tokenizer.json and tokenizer_config.json: `ordinary` tokens of bytes, then the `special` ones."""
    vocabulary, merges = _random_merges(ordinary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    backend.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end_token, "pad_token": end_token}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def _random_merges(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of `size` tokens: the 256 bytes, then joins of two earlier tokens."""
    rng = np.random.default_rng(0)
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = set(tokens)
    merges: list[tuple[str, str]] = []
    while len(tokens) < size:
        for first, second in rng.integers(0, len(tokens), (size - len(tokens), 2)).tolist():
            joined = tokens[first] + tokens[second]
            if len(joined) <= LONGEST_TOKEN and joined not in known:
                known.add(joined)
                tokens.append(joined)
                merges.append((tokens[first], tokens[second]))
    return {token: number for number, token in enumerate(tokens)}, merges
