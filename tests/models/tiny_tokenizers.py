"""Tokenizers of every kind, trained on the spot, and random text to try them on."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from inflight.runtime.text.indexed_backend import Backend

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and then it doesn't.",
    "def f(x):\n    return x ** 2  # a comment\n",
    "naïve café — déjà vu; Привет, мир! 東京タワーへ行く。 नमस्ते दुनिया 👩‍👩‍👧‍👦 🎉🎉",
] * 8
ALPHABETS = [
    "abcxyz ABC  ",
    "é ü ñ ß",
    "привет",
    "東京日本語。",
    "नमस्ते",
    "👩\u200d👧🎉🇫🇷👍🏽",
    "e\u0301\u0323\u200d",
    "\n\t▁\ufffd",
    "0123.,!?'\"<|>",
]
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> tokenizers.Tokenizer:
    """As GPT-2, Llama 3 and Qwen."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return _with_added_tokens(backend)


def byte_fallback() -> tokenizers.Tokenizer:
    """As Llama 2 and Mistral: SentencePiece BPE, unknown characters spelled in bytes."""
    trained = _byte_fallback_bpe()
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trained.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _with_added_tokens(trained)


def byte_fallback_without_strip() -> tokenizers.Tokenizer:
    """As Gemma: spaces become ▁ in the normalizer, and no first space is taken away."""
    trained = _byte_fallback_bpe()
    trained.normalizer = normalizers.Replace(" ", "▁")
    bytes_to_text = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    trained.decoder = decoders.Sequence([decoders.Replace("▁", " "), bytes_to_text])
    return _with_added_tokens(trained)


def unigram() -> tokenizers.Tokenizer:
    """As T5 and XLM-R."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False, max_piece_length=6
    )
    backend.train_from_iterator(CORPUS, trainer)
    return _with_added_tokens(backend)


def word_piece() -> tokenizers.Tokenizer:
    """As BERT."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]"], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return _with_added_tokens(backend)


def word_level() -> tokenizers.Tokenizer:
    """No decoder at all: words are joined with spaces."""
    backend = tokenizers.Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return _with_added_tokens(backend)


def end_of_word() -> tokenizers.Tokenizer:
    """As the first GPT: a suffix ends a word, so that a decoder needs to know what comes after."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return _with_added_tokens(backend)


KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte_level": byte_level,
    "byte_fallback": byte_fallback,
    "byte_fallback_without_strip": byte_fallback_without_strip,
    "unigram": unigram,
    "word_piece": word_piece,
    "word_level": word_level,
    "end_of_word": end_of_word,
}


def random_text(rng: np.random.Generator, max_length: int = 60) -> str:
    """Runs of characters of many scripts, with emoji, combining marks and joiners."""
    text = ""
    while len(text) < rng.integers(1, max_length):
        alphabet = ALPHABETS[rng.integers(len(ALPHABETS))]
        text += "".join(alphabet[rng.integers(len(alphabet))] for _ in range(rng.integers(1, 8)))
    return text


def random_ids(rng: np.random.Generator, backend: Backend, max_length: int = 40) -> list[int]:
    """Ids of every sort in any order: ordinary, special, outside the vocabulary, and runs of byte tokens that may or
    may not be UTF-8."""
    size = backend.get_vocab_size()
    byte_ids = [found for piece in BYTE_PIECES if (found := backend.token_to_id(piece)) is not None]
    ids: list[int] = []
    while len(ids) < rng.integers(0, max_length):
        if byte_ids and rng.random() < 0.4:
            spelled = random_text(rng, 5).encode()
            cut = int(rng.integers(len(spelled) + 1)) if rng.random() < 0.5 else len(spelled)
            ids += [byte_ids[byte] for byte in spelled[:cut]]
        elif rng.random() < 0.5:
            ids += backend.encode(random_text(rng, 8), add_special_tokens=False).ids
        else:
            ids += [int(i) for i in rng.integers(-2, size + 3, rng.integers(1, 5))]
    return ids


def _byte_fallback_bpe() -> tokenizers.Tokenizer:
    """A BPE model with <unk>, the 256 byte pieces and merges over ▁-joined words."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", *BYTE_PIECES], limit_alphabet=40, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    described = json.loads(backend.to_str())
    # The trainer lists the byte pieces as added tokens, which a text may spell; they belong in the vocabulary alone.
    described["pre_tokenizer"] = None
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] == "<unk>"]
    return tokenizers.Tokenizer.from_str(json.dumps(described))


def _with_added_tokens(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    backend.add_special_tokens([AddedToken("<s>", normalized=False), AddedToken("</s>", normalized=False)])
    backend.add_tokens([AddedToken("<think>", special=False), AddedToken("▁odd ▁", special=False)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return backend
