"""How large the inputs of the Triton models may be, checked on the tensors before anything is read out of them."""

from __future__ import annotations

from collections.abc import Mapping

from inflight.errors import RequestError
from inflight.sampling_parameters import MAX_BAD_WORDS, MAX_STOPS, MAX_WORD_CHARACTERS
from inflight.triton_backend.wire.request_tensors import Array

# Token ids of all words of a list together.
_MAX_WORD_IDS = 1 << 14
# Values of one row. preprocessing has its own names; the models of text those of their clients.
_MOST_VALUES: Mapping[str, int] = {
    "stop_words": MAX_STOPS,
    "STOP_WORDS_DICT": MAX_STOPS,
    "bad_words": MAX_BAD_WORDS,
    "BAD_WORDS_DICT": MAX_BAD_WORDS,
    "embedding_bias_words": MAX_BAD_WORDS,
    "EMBEDDING_BIAS_WORDS": MAX_BAD_WORDS,
    "stop_words_list": 2 * _MAX_WORD_IDS,
    "bad_words_list": 2 * _MAX_WORD_IDS,
}
_PROMPTS = ("text_input", "QUERY")
# UTF-8 has so many bytes for a character at most.
_CHARACTER_BYTES = 4


def check_sizes(tensors: Mapping[str, Array], *, prompt_characters: int = 0, vocab_size: int = 0) -> None:
    """Raises RequestError for an input with more than a request may have.

    `prompt_characters`: of each text prompt; `vocab_size`: the values that embedding_bias needs, and may have twice; 0:
    the model has no such input.
    """
    for name, tensor in tensors.items():
        values = tensor.size // max(tensor.shape[0], 1) if tensor.ndim else tensor.size
        most = 2 * vocab_size if name == "embedding_bias" else _MOST_VALUES.get(name, 0)
        if most and values > most:
            raise RequestError(f"{name} has {values} values per request; at most {most} are possible.")
        if tensor.dtype == object and name in _MOST_VALUES:
            _check_bytes(name, sum(map(len, tensor.reshape(-1))), MAX_WORD_CHARACTERS * max(tensor.shape[0], 1))
        elif tensor.dtype == object and name in _PROMPTS and prompt_characters:
            _check_bytes(name, max(map(len, tensor.reshape(-1)), default=0), prompt_characters)


def _check_bytes(name: str, num_bytes: int, most_characters: int) -> None:
    if num_bytes > most_characters * _CHARACTER_BYTES:
        raise RequestError(
            f"{name} has {num_bytes} bytes, more than the {most_characters} characters that are possible."
        )
