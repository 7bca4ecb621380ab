"""What clients call the inputs, where messages name a parameter or a tensor of `tensorrt_llm`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from inflight.errors import InflightError, RequestError
from inflight.sampling_parameters import SAMPLING_PARAMETERS
from inflight.triton_backend.wire.sampling_wire import TEXT_NAMES

# Inputs of `ensemble` and `tensorrt_llm_bls` that `preprocessing` takes, by their names there.
PREPROCESSING_NAMES: Mapping[str, str] = {
    "QUERY": "text_input",
    "DECODER_QUERY": "decoder_text_input",
    "REQUEST_OUTPUT_LEN": "max_tokens",
    "BAD_WORDS_DICT": "bad_words",
    "STOP_WORDS_DICT": "stop_words",
    "EMBEDDING_BIAS_WORDS": "embedding_bias_words",
    "EMBEDDING_BIAS_WEIGHTS": "embedding_bias_weights",
    "END_ID": "end_id",
    "PAD_ID": "pad_id",
    "PROMPT_TABLE_EXTRA_ID": "prompt_table_extra_id",
}
# Input of `tensorrt_llm` -> that of a client of text, also where `preprocessing` makes one from the other.
_TEXT_CLIENTS: Mapping[str, str] = {
    **{core: text for text, core in TEXT_NAMES.items()},
    "request_output_len": "max_tokens",
    "len_penalty": "length_penalty",
    "streaming": "stream",
    "prompt_table_extra_ids": "prompt_table_extra_id",
    "bad_words_list": "bad_words",
    "stop_words_list": "stop_words",
    "embedding_bias": "embedding_bias_weights",
    "input_ids": "text_input",
}
_OTHER_PARAMETERS = {"max_tokens": "request_output_len", "bad_word_ids": "bad_words_list"}


def names_of_ids_client(sent: Collection[str]) -> dict[str, str]:
    """Sampling parameter -> input of `tensorrt_llm`; of several the one that is among those `sent`."""
    names = {**_OTHER_PARAMETERS, "logit_bias": "embedding_bias" if "embedding_bias" in sent else "logit_bias_ids"}
    for row in SAMPLING_PARAMETERS:
        if row.triton and row.kind != "bias":
            inputs = [own.name for own in row.triton]
            names[row.name] = next((name for name in (row.name, *inputs) if name in sent), inputs[-1])
    return names


def names_of_text_client(names: Mapping[str, str]) -> dict[str, str]:
    """The same for a client of text: what `names` calls an input of `tensorrt_llm`, and these inputs themselves."""
    return {**_TEXT_CLIENTS, **{ours: _TEXT_CLIENTS.get(core, core) for ours, core in names.items()}}


def in_clients_words(error: InflightError, names: Mapping[str, str]) -> InflightError:
    """`error` with the client's names. A name of one letter is a word where it is said what it is."""
    if not names:
        return error
    known = sorted(names, key=len, reverse=True)
    pattern = "|".join(re.escape(name) if len(name) > 1 else f"{name}(?= is )" for name in known)

    def rename(text: str) -> str:
        return re.sub(rf"\b(?:{pattern})\b", lambda found: names[found[0]], text)

    return type(error)(rename(error.message), None if error.hint is None else rename(error.hint))


@contextmanager
def in_words_of_client(names: Mapping[str, str]) -> Iterator[None]:
    """A RequestError in here has the client's names."""
    try:
        yield
    except RequestError as error:
        raise in_clients_words(error, names) from None
