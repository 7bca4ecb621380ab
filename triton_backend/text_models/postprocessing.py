"""The model `postprocessing`: token ids in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inflight.errors import RequestError
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from inflight.triton_backend.wire.request_tensors import Array, RowTensors
from inflight.triton_backend.wire.server_process import end_with_server
from inflight.triton_backend.wire.triton_api import ModelSettings, check_numpy, respond


class TritonPythonModel:
    """Stateless, also between the chunks of one stream: a chunk brings the ids that went before it."""

    def initialize(self, args: Mapping[str, str]) -> None:
        check_numpy()
        end_with_server()
        settings = ModelSettings(args)
        self._tokenizer = load_tokenizer(Path(settings.required("tokenizer_dir")))
        self._skip_special_tokens = settings.flag("skip_special_tokens", True)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [respond(request, self._decode) for request in requests]

    def _decode(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        return {"OUTPUT": decode_batch(self._tokenizer, tensors, self._skip_special_tokens)}


def decode_batch(tokenizer: Tokenizer, tensors: Mapping[str, Array], skip_special_tokens: bool) -> Array:
    """OUTPUT, one string per sequence, without a batch dimension: clients read `text_output[0]`.

    TOKENS_BATCH is INT32 [batch, beams, tokens] and SEQUENCE_LENGTH [batch, beams]. With DECODE_FINAL the tokens are a
    chunk of a stream whose ids so far end with DECODE_CONTEXT. Raises RequestError for lengths that are not those of
    TOKENS_BATCH, and for a context without DECODE_FINAL.
    """
    tokens, lengths = tensors["TOKENS_BATCH"], tensors["SEQUENCE_LENGTH"]
    _check_lengths(tokens, lengths)
    texts = []
    for index in range(tokens.shape[0]):
        row = RowTensors(tensors, index)
        final, context = row.scalar("DECODE_FINAL"), row.integers("DECODE_CONTEXT")
        if final is None and context:
            raise RequestError(
                "DECODE_CONTEXT has no effect without DECODE_FINAL.",
                "Send DECODE_FINAL: whether the chunk is the last.",
            )
        for beam in range(tokens.shape[1]):
            ids = [int(token) for token in tokens[index, beam, : int(lengths[index, beam])]]
            if final is None:
                text = tokenizer.decode(ids, skip_special_tokens)
            else:
                text = decode_chunk(tokenizer, context, ids, bool(final), skip_special_tokens)
            texts.append(text.encode("utf-8"))
    return np.array(texts, dtype=np.object_)


def _check_lengths(tokens: Array, lengths: Array) -> None:
    if lengths.shape != tokens.shape[:2]:
        raise RequestError(
            f"SEQUENCE_LENGTH has shape {list(lengths.shape)}; TOKENS_BATCH has {list(tokens.shape)}.",
            "Send a length for each sequence, [batch, beams].",
        )
    wrong = lengths[(lengths < 0) | (lengths > tokens.shape[2])]
    if wrong.size:
        raise RequestError(f"SEQUENCE_LENGTH is {wrong[0]}; a sequence of TOKENS_BATCH has {tokens.shape[2]} tokens.")


def decode_chunk(
    tokenizer: Tokenizer, context: Sequence[int], ids: Sequence[int], final: bool, skip_special_tokens: bool
) -> str:
    """The text that `ids` add after `context`; what may still become a character is left to the next chunk."""
    if tokenizer.decoding_stages is None:
        before = tokenizer.decode(context, skip_special_tokens)
        return tokenizer.decode([*context, *ids], skip_special_tokens)[len(before) :]
    detokenizer = tokenizer.detokenizer(skip_special_tokens)
    detokenizer.push(context)
    text = detokenizer.push(ids)
    return text + detokenizer.flush() if final else text
