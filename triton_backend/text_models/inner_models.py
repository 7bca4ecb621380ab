"""The models that `tensorrt_llm_bls` calls, and how its tensors map to theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from inflight.triton_backend.wire.request_tensors import Array
from inflight.triton_backend.wire.sampling_wire import TEXT_NAMES
from inflight.triton_backend.wire.token_wire import OUTPUTS, stop_tensors
from inflight.triton_backend.wire.triton_api import output_arrays, pb_utils, read_error

_PREPROCESSING_INPUTS = {
    "text_input": "QUERY",
    "decoder_text_input": "DECODER_QUERY",
    "max_tokens": "REQUEST_OUTPUT_LEN",
    "bad_words": "BAD_WORDS_DICT",
    "stop_words": "STOP_WORDS_DICT",
    "embedding_bias_words": "EMBEDDING_BIAS_WORDS",
    "embedding_bias_weights": "EMBEDDING_BIAS_WEIGHTS",
    "end_id": "END_ID",
    "pad_id": "PAD_ID",
    "prompt_table_extra_id": "PROMPT_TABLE_EXTRA_ID",
}
_ENCODED_INPUTS = {
    "INPUT_ID": "input_ids",
    "REQUEST_INPUT_LEN": "input_lengths",
    "REQUEST_OUTPUT_LEN": "request_output_len",
    "BAD_WORDS_IDS": "bad_words_list",
    "EMBEDDING_BIAS": "embedding_bias",
    "OUT_END_ID": "end_id",
    "OUT_PAD_ID": "pad_id",
}
# Beside them: what is asked of the response, and what is refused.
_OTHER_INPUTS = {
    "length_penalty": "len_penalty",
    "return_log_probs": "return_log_probs",
    "return_perf_metrics": "return_perf_metrics",
    "return_num_input_tokens": "return_num_input_tokens",
    "return_num_output_tokens": "return_num_output_tokens",
    "beam_width": "beam_width",
    "priority": "priority",
}
_OWN_OUTPUTS = ("text_output", "finish_reason", "stop_reason")


class InnerModels:
    """Calls from inside a Triton process. In decoupled mode ids always come as a stream, so that text can be watched
    for stop strings while it grows."""

    def __init__(self, core_model: str, decoupled: bool) -> None:
        self.decoupled = decoupled
        self._core_model = core_model

    def encode(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of `preprocessing`. Raises RequestError with its reason."""
        inputs = {name: tensors[ours] for ours, name in _PREPROCESSING_INPUTS.items() if ours in tensors}
        response = _inference("preprocessing", "", inputs, list(_ENCODED_INPUTS)).exec()
        _raise_error(response)
        return output_arrays(response)

    def generate(
        self, request_id: str, tensors: Mapping[str, Array], encoded: Mapping[str, Array], outputs: frozenset[str]
    ) -> Iterator[dict[str, Array]]:
        """The responses of `tensorrt_llm`, new tokens only. Raises RequestError or EngineError with its reason.

        Stop words stay here: they are looked for in the text, which their ids only approximate.
        """
        rows = encoded["INPUT_ID"].shape[0]
        inputs = {theirs: encoded[name] for name, theirs in _ENCODED_INPUTS.items()}
        inputs |= {theirs: tensors[ours] for ours, theirs in (TEXT_NAMES | _OTHER_INPUTS).items() if ours in tensors}
        always = {"return_finish_reason": True, "return_stop_reason": True, "exclude_input_in_output": True}
        for name, value in {**always, "streaming": self.decoupled}.items():
            inputs[name] = np.full((rows, 1), value, dtype=np.bool_)
        wanted = [*OUTPUTS, *(name for name in outputs if name not in (*_OWN_OUTPUTS, *OUTPUTS))]
        request = _inference(self._core_model, request_id, inputs, wanted)
        for response in request.exec(decoupled=True) if self.decoupled else [request.exec()]:
            _raise_error(response)
            if arrays := output_arrays(response):
                yield arrays

    def stop(self, request_id: str) -> None:
        """End the generation with this id early; its stream then ends by itself."""
        request = _inference(self._core_model, request_id, stop_tensors(None), ["output_ids"])
        for response in request.exec(decoupled=True) if self.decoupled else [request.exec()]:
            _raise_error(response)


def _inference(model: str, request_id: str, inputs: Mapping[str, Array], outputs: list[str]) -> Any:
    tensors = [pb_utils.Tensor(name, array) for name, array in inputs.items()]
    return pb_utils.InferenceRequest(
        model_name=model, request_id=request_id, inputs=tensors, requested_output_names=outputs
    )


def _raise_error(response: Any) -> None:
    if not response.has_error():
        return
    error = response.error()
    raise read_error(error.code(), error.message())
