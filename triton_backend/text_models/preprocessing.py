"""The model `preprocessing`: text in, token ids out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inflight.errors import RequestError
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.text.prompt_characters import check_characters, most_characters
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from inflight.runtime.text.words import all_word_ids, word_ids
from inflight.triton_backend.tensorrt_llm.refused_inputs import refuse_unsupported
from inflight.triton_backend.wire.client_names import PREPROCESSING_NAMES
from inflight.triton_backend.wire.input_limits import check_sizes
from inflight.triton_backend.wire.request_tensors import Array, RowTensors, batch_size
from inflight.triton_backend.wire.sampling_wire import AS_MANY_AS_FIT
from inflight.triton_backend.wire.server_process import end_with_server
from inflight.triton_backend.wire.triton_api import ModelSettings, check_numpy, respond
from inflight.triton_backend.wire.word_lists import write_words

# A client may have called this model, or another whose inputs came here.
_NAMES = {name: f"{name} ({text_name})" for name, text_name in PREPROCESSING_NAMES.items()}


class TritonPythonModel:
    """Stateless: every response is a function of its request."""

    def initialize(self, args: Mapping[str, str]) -> None:
        check_numpy()
        end_with_server()
        settings = ModelSettings(args)
        manifest = read_engine_directory(Path(settings.required("gpt_model_path"))).manifest
        self._encoder = PromptEncoder(
            load_tokenizer(Path(settings.required("tokenizer_dir"))),
            add_special_tokens=settings.flag("add_special_tokens", True),
            end_token_ids=manifest.generation.end_token_ids,
            pad_token_id=manifest.generation.pad_token_id,
            vocab_size=manifest.model.vocab_size,
            max_seq_len=manifest.limits.max_seq_len,
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        return [respond(request, self._encoder.encode, _NAMES) for request in requests]


class PromptEncoder:
    """Text tensors to id tensors. Without an end token, END_ID is -1: never stop."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        add_special_tokens: bool,
        end_token_ids: Sequence[int],
        pad_token_id: int | None,
        vocab_size: int,
        max_seq_len: int = 1 << 20,
    ) -> None:
        self._tokenizer = tokenizer
        self._add_special_tokens = add_special_tokens
        self._vocab_size = vocab_size
        self._most_characters = most_characters(tokenizer, max_seq_len)
        known_end = next(iter(end_token_ids), tokenizer.eos_token_id)
        self._end_id = -1 if known_end is None else known_end
        known_pad = tokenizer.pad_token_id if pad_token_id is None else pad_token_id
        self._pad_id = max(self._end_id, 0) if known_pad is None else known_pad

    def encode(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs that `ensemble` and clients use; raises RequestError for an input that has no engine."""
        refuse_unsupported(tensors)
        check_sizes(tensors, prompt_characters=self._most_characters)
        rows = [RowTensors(tensors, row) for row in range(batch_size(tensors, "QUERY"))]
        end_ids = [_given(row.integer("END_ID"), self._end_id) for row in rows]
        pad_ids = [_given(row.integer("PAD_ID"), self._pad_id) for row in rows]
        prompts = [self._prompt(row) for row in rows]
        stop_words = [self._stop_words(row) for row in rows]
        return {
            "INPUT_ID": _pad_right(prompts, pad_ids),
            "REQUEST_INPUT_LEN": _column([len(prompt) for prompt in prompts]),
            "DECODER_INPUT_ID": _column(pad_ids),
            "REQUEST_DECODER_INPUT_LEN": _column([1] * len(rows)),
            "BAD_WORDS_IDS": write_words(
                [all_word_ids(self._tokenizer, row.strings("BAD_WORDS_DICT")) for row in rows]
            ),
            "STOP_WORDS_IDS": write_words([tuple(ids for _, ids in words) for words in stop_words]),
            "STOP_WORDS_TEXTS": _pad_texts([[word for word, _ in words] for words in stop_words]),
            "EMBEDDING_BIAS": self._embedding_bias(rows),
            "REQUEST_OUTPUT_LEN": _column([_output_length(row) for row in rows]),
            "OUT_END_ID": _column(end_ids),
            "OUT_PAD_ID": _column(pad_ids),
            "OUT_PROMPT_TABLE_EXTRA_IDS": np.zeros((len(rows), 0), dtype=np.uint64),
            "RETURN_DECODE_CONTEXT": np.ones((len(rows), 1), dtype=np.bool_),
        }

    def _prompt(self, row: RowTensors) -> list[int]:
        text = row.scalar("QUERY")
        if text is None:
            raise RequestError("QUERY is missing.", "Send the prompt.")
        check_characters("The prompt", len(text), self._most_characters)
        ids = self._tokenizer.encode(str(text), self._add_special_tokens)
        if not ids:
            raise RequestError("The prompt is empty.", "Send at least one token of text.")
        return ids

    def _stop_words(self, row: RowTensors) -> list[tuple[str, tuple[int, ...]]]:
        """Each word with each of its spellings that hold the whole word, spaces included: a shorter one would end the
        text too early."""
        before = self._tokenizer.encode("a", add_special_tokens=False)
        return [
            (word, ids)
            for word in row.strings("STOP_WORDS_DICT")
            for ids in word_ids(self._tokenizer, word)
            if word in self._tokenizer.decode([*before, *ids], skip_special_tokens=False)
        ]

    def _embedding_bias(self, rows: Sequence[RowTensors]) -> Array:
        """FP32 [batch, vocabulary], the weight of a word on each of its ids; [batch, 0] when no row has one."""
        weighted = [_weighted_words(row) for row in rows]
        width = self._vocab_size if any(weighted) else 0
        bias = np.zeros((len(rows), width), dtype=np.float32)
        for index, words in enumerate(weighted):
            for word, weight in words:
                bias[index, self._tokenizer.encode(word, add_special_tokens=False)] += weight
        return bias


def _weighted_words(row: RowTensors) -> list[tuple[str, float]]:
    """The words of embedding_bias with their weights. An empty word fills a row up to the longest of the batch, and so
    does its weight, if it has one."""
    words, weights = row.strings("EMBEDDING_BIAS_WORDS", keep_empty=True), row.numbers("EMBEDDING_BIAS_WEIGHTS")
    if len(weights) != len(words):
        words = tuple(filter(None, words))
    if len(weights) != len(words):
        raise RequestError(f"There are {len(words)} EMBEDDING_BIAS_WORDS and {len(weights)} EMBEDDING_BIAS_WEIGHTS.")
    return [(word, weight) for word, weight in zip(words, weights, strict=True) if word]


def _output_length(row: RowTensors) -> int:
    """Raises RequestError for a length that would read as "none was given" further on."""
    length = row.integer("REQUEST_OUTPUT_LEN")
    if length == AS_MANY_AS_FIT:
        raise RequestError(f"REQUEST_OUTPUT_LEN is {length}; it must be at least 1.")
    return _given(length, AS_MANY_AS_FIT)


def _pad_texts(rows: Sequence[Sequence[str]]) -> Array:
    """BYTES [batch, n], empty strings after the last of a row."""
    width = max(map(len, rows))
    padded = [[text.encode() for text in texts] + [b""] * (width - len(texts)) for texts in rows]
    return np.array(padded, dtype=np.object_).reshape(len(rows), width)


def _pad_right(prompts: Sequence[Sequence[int]], pad_ids: Sequence[int]) -> Array:
    width = max(len(prompt) for prompt in prompts)
    padded = [[*prompt, *[pad] * (width - len(prompt))] for prompt, pad in zip(prompts, pad_ids, strict=True)]
    return np.array(padded, dtype=np.int32)


def _column(values: Sequence[int]) -> Array:
    return np.array(values, dtype=np.int32).reshape(-1, 1)


def _given(value: int | None, default: int) -> int:
    return default if value is None else value
