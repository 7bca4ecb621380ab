"""The models that `tensorrt_llm_bls` calls, and how its tensors map to theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from inflight.triton_backend.wire.client_names import PREPROCESSING_NAMES
from inflight.triton_backend.wire.joined_rows import split_rows
from inflight.triton_backend.wire.model_calls import call_model, stop_generation
from inflight.triton_backend.wire.request_tensors import Array
from inflight.triton_backend.wire.sampling_wire import STRUCTURE_INPUTS, TEXT_NAMES
from inflight.triton_backend.wire.token_wire import OUTPUTS

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
    "return_perf_metrics": "return_perf_metrics",
    "return_num_input_tokens": "return_num_input_tokens",
    "return_num_output_tokens": "return_num_output_tokens",
    "beam_width": "beam_width",
    "priority": "priority",
    **{name: name for name in STRUCTURE_INPUTS},
}
_OWN_OUTPUTS = ("text_output", "finish_reason", "stop_reason")


class InnerModels:
    """Calls from inside a Triton process. From a decoupled `tensorrt_llm` ids always come as a stream, so that text can
    be watched for stop strings while it grows."""

    def __init__(self, core_model: str, decoupled: bool, encoder: str = "preprocessing") -> None:
        self._decoupled = decoupled
        self._core_model = core_model
        self._encoder = encoder

    def encode(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of `preprocessing`. Raises RequestError with its reason."""
        inputs = {name: tensors[ours] for name, ours in PREPROCESSING_NAMES.items() if ours in tensors}
        (encoded,) = call_model(self._encoder, "", inputs, list(_ENCODED_INPUTS))
        return encoded

    def generate(
        self, request_id: str, tensors: Mapping[str, Array], encoded: Mapping[str, Array], outputs: frozenset[str]
    ) -> Iterator[dict[str, Array]]:
        """The responses of `tensorrt_llm`, new tokens only, with the log probabilities of these alone. Raises the error
        that it answers with.

        Stop words stay here: they are looked for in the text, which their ids only approximate.
        """
        rows = encoded["INPUT_ID"].shape[0]
        inputs = {theirs: encoded[name] for name, theirs in _ENCODED_INPUTS.items()}
        inputs |= {theirs: tensors[ours] for ours, theirs in (TEXT_NAMES | _OTHER_INPUTS).items() if ours in tensors}
        for name in ("return_finish_reason", "return_stop_reason", "exclude_input_in_output"):
            inputs[name] = np.full((rows, 1), True, dtype=np.bool_)
        searches = tensors["beam_width"] > 1 if "beam_width" in tensors else np.zeros((rows, 1), dtype=np.bool_)
        # What a search finds comes whole.
        inputs["streaming"] = ~searches & self._decoupled
        if "return_log_probs" in tensors and tensors["return_log_probs"].any():
            inputs["num_logprobs"] = np.zeros((rows, 1), dtype=np.int32)
        wanted = [*OUTPUTS, "sequence_length", *(name for name in outputs if name not in (*_OWN_OUTPUTS, *OUTPUTS))]
        for response in call_model(self._core_model, request_id, inputs, wanted, decoupled=self._decoupled):
            yield from split_rows(response)

    def stop(self, request_id: str) -> None:
        """End the generation with this id early; its stream then ends by itself."""
        stop_generation(self._core_model, request_id, decoupled=self._decoupled)
