"""The texts on which `inflight verify` compares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inflight.engine_format.manifest import EngineManifest

PROMPTS = ("The capital of France is", "def fibonacci(n):\n", "Once upon a time, in a small town by the sea,")
# Of a mixture of experts, beside the prompts: short ones, since a token about which a router hesitates spoils all
# that are behind it in its text.
FURTHER_TEXTS, FURTHER_LENGTH = 64, 8


def encoded_prompts(engine: Path, prompts: Sequence[str], manifest: EngineManifest) -> list[tuple[str, list[int]]]:
    """Prompts as token ids; for an engine without a tokenizer, ids spread over the vocabulary."""
    from inflight.runtime.text.tokenizer import load_tokenizer

    if (engine / "tokenizer").is_dir():
        tokenizer = load_tokenizer(engine / "tokenizer")
        return [(text, tokenizer.encode(text)) for text in prompts]
    return [(f"(ids {seed})", _spread(seed, 12, manifest)) for seed in range(3)]


def further_texts(engine: Path, manifest: EngineManifest) -> list[list[int]]:
    """Token ids of short texts of one length: pieces of the text that engines are measured on, without the token that
    begins every text, about which a router may hesitate as well; or ids spread over the vocabulary.
    """
    from inflight.accuracy.material import DEFAULT_TEXT
    from inflight.runtime.text.tokenizer import load_tokenizer

    length = min(FURTHER_LENGTH, manifest.limits.max_seq_len - 1)
    if not (engine / "tokenizer").is_dir():
        return [_spread(3 + seed, length, manifest) for seed in range(FURTHER_TEXTS)]
    tokens = load_tokenizer(engine / "tokenizer").encode(DEFAULT_TEXT.read_text(encoding="utf-8"), False)
    apart = (len(tokens) - length) // (FURTHER_TEXTS - 1)
    return [tokens[start : start + length] for start in range(0, FURTHER_TEXTS * apart, apart)]


def _spread(seed: int, count: int, manifest: EngineManifest) -> list[int]:
    return [(seed + 7919 * i * i) % manifest.model.vocab_size for i in range(count)]
