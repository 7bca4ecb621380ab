"""Every input that a config.pbtxt declares changes the answer, or is refused with an error that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from inflight.triton_backend.launch.repository import MODELS, write_repository
from inflight.triton_backend.launch.server import TritonServer
from inflight.triton_backend.launch.unary_models import UNARY_MODELS
from inflight.triton_backend.tensorrt_llm.refused_inputs import IGNORED_INPUTS
from tests.endpoint.triton_calls import stream

pytestmark = pytest.mark.endpoint

Array = Any
DTYPES: dict[int, Any] = {
    model_config_pb2.TYPE_BOOL: np.bool_,
    model_config_pb2.TYPE_UINT8: np.uint8,
    model_config_pb2.TYPE_UINT64: np.uint64,
    model_config_pb2.TYPE_INT32: np.int32,
    model_config_pb2.TYPE_INT64: np.int64,
    model_config_pb2.TYPE_FP16: np.float16,
    model_config_pb2.TYPE_FP32: np.float32,
    model_config_pb2.TYPE_STRING: np.object_,
}
# Values that no request may have, where there are any, or that ask for something.
OFF_DEFAULT: dict[Any, Any] = {np.bool_: True, np.object_: b"\xff", np.float16: np.nan, np.float32: np.nan}
# They order requests or sequences, or say more of a stop request, so that one answer alone does not change.
OF_SEVERAL_REQUESTS = ("priority", "stop_sequence_index")
# ensemble looks for the tokens of a stop word, in which the text of an answer need not be spelled.
WITHOUT_EFFECT = {("ensemble", "return_stop_reason")}
TOKENS = 150


def tensors_of(model: str, engine: Path, repository: Path) -> dict[str, Any]:
    if not repository.exists():
        write_repository(engine, repository)
    config: Any = text_format.Parse((repository / model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    return {tensor.name: tensor for tensor in config.input}


def off_default(rng: np.random.Generator, tensor: Any) -> Array:
    """A value of the declared type and shape, with a batch dimension."""
    dtype = DTYPES[tensor.data_type]
    shape = [1, *(2 if size < 0 else size for size in tensor.dims)]
    signed = dtype in (np.int32, np.int64)
    return np.full(shape, OFF_DEFAULT.get(dtype, int(rng.integers(2, 100)) * (-1 if signed else 1)), dtype=dtype)


def request_that_ends(triton: TritonServer, model: str, rng: np.random.Generator) -> tuple[dict[str, Any], list[Any]]:
    """A request whose answer the model's own end token ends after a few tokens, and the answer."""
    for _ in range(200):
        if "tensorrt_llm" in model and "bls" not in model:
            request: dict[str, Any] = {"input_ids": rng.integers(6, 200, size=3).tolist(), "request_output_len": TOKENS}
        else:
            request = {"text_input": str(rng.integers(1 << 30)), "max_tokens": TOKENS}
        counted = stream(triton, model, {**request, "return_num_output_tokens": True})
        if 3 <= int(counted[0]["num_output_tokens"][0, 0]) < TOKENS - 10:
            return request, stream(triton, model, request)
    raise AssertionError("no answer ended early")


def companions(name: str, value: Array, vocab_size: int) -> dict[str, Any]:
    """What gives an input its meaning, or a value of its own for those that have no wrong one."""
    twins = {"seed": "random_seed", "random_seed": "seed"}
    if name in twins:
        return {name: value, twins[name]: value + np.uint64(1)}
    every_token = np.arange(vocab_size, dtype=np.int32)[None]
    own: dict[str, dict[str, Any]] = {
        "input_ids": {name: [7, 8, 9, 10]},
        "end_id": {name: -1},
        "stop_words_list": {name: np.array([[[5, 6], [2, 1]]], np.int32)},
        "bad_words_list": {name: np.array([[[5, 6], [2, 1]]], np.int32)},
        "stop_token_ids": {name: every_token},
        "return_stop_reason": {name: True, "stop_token_ids": every_token},
    }
    return own.get(name, {name: value})


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("model", [*(model for model in MODELS if "processing" not in model), *UNARY_MODELS])
def test_each_input_of_a_model_has_an_effect(
    triton: TritonServer, engine: Path, tmp_path: Path, rng: np.random.Generator, model: str
) -> None:
    declared = tensors_of(model, engine, tmp_path / "models")
    request, answer = request_that_ends(triton, model, rng)
    vocab_size = load_tokenizer(engine / "tokenizer").vocab_size
    silent = []
    for name, tensor in declared.items():
        if name in (*IGNORED_INPUTS, *OF_SEVERAL_REQUESTS) or (model.removesuffix("_unary"), name) in WITHOUT_EFFECT:
            continue
        changes = companions(name, off_default(rng, tensor), vocab_size)
        if name == "return_stop_reason" and "stop_words" in declared:
            changes = {name: True, "stop_words": [answer[0]["text_output"][0].decode()[-1]]}
        try:
            if same(stream(triton, model, {**request, **changes}, request_id=f"{model} {name}"), answer):
                silent.append(name)
        except InferenceServerException as refused:
            assert name.lower() in refused.message().lower(), refused.message()
    assert silent == []


def test_each_input_of_preprocessing_has_an_effect(
    triton: TritonServer, engine: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    request = {"QUERY": "fox", "REQUEST_OUTPUT_LEN": 5}
    answer = stream(triton, "preprocessing", request)
    for name, tensor in tensors_of("preprocessing", engine, tmp_path / "models").items():
        try:
            changed = stream(triton, "preprocessing", {**request, name: off_default(rng, tensor)})
            assert not same(changed, answer), name
        except InferenceServerException as refused:
            assert name in refused.message(), refused.message()


def test_each_input_of_postprocessing_has_an_effect(
    triton: TritonServer, engine: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """The tokens are halves of a character, whose text hangs on what went before them and on whether more follows:
    nothing while the rest may come, the replacement character where nothing does, the character behind its first half.
    """
    tokenizer = load_tokenizer(engine / "tokenizer")
    first, second = split_character(tokenizer, rng)

    def decode(**tensors: Any) -> list[dict[str, Any]]:
        return stream(triton, "postprocessing", tensors)

    def text(tokens: list[int], length: int | None = None, **more: Any) -> str:
        lengths = np.array([[len(tokens) if length is None else length]], np.int32)
        (answer,) = decode(TOKENS_BATCH=np.array([[tokens]], np.int32), SEQUENCE_LENGTH=lengths, **more)
        return str(answer["OUTPUT"][0].decode())

    whole = tokenizer.decode([first, second])
    broken = tokenizer.decode([first])
    assert "\ufffd" in broken and "\ufffd" not in whole
    assert text([first, second]) == whole
    assert text([first, second], length=1) == text([first]) == broken
    assert text([first], DECODE_FINAL=False) == ""
    assert text([first], DECODE_FINAL=True) == text([first, second], length=1, DECODE_FINAL=True) == broken
    assert text([second], DECODE_FINAL=True, DECODE_CONTEXT=[first]) == whole
    assert text([second], DECODE_FINAL=True) == tokenizer.decode([second])
    with pytest.raises(InferenceServerException, match="DECODE_CONTEXT"):
        text([second], DECODE_CONTEXT=[first])

    right = {"TOKENS_BATCH": np.array([[[first, second]]], np.int32), "SEQUENCE_LENGTH": np.array([[2]], np.int32)}
    answer = decode(**right)
    for name, tensor in tensors_of("postprocessing", engine, tmp_path / "models").items():
        try:
            assert not same(decode(**{**right, name: off_default(rng, tensor)}), answer) or name == "DECODE_FINAL", name
        except InferenceServerException as refused:
            assert name in refused.message(), refused.message()


def split_character(tokenizer: Tokenizer, rng: np.random.Generator) -> tuple[int, int]:
    """Two tokens that are one character together, and none alone."""
    while True:
        character = chr(int(rng.integers(0x80, 0x2FFFF)))
        ids = tokenizer.encode(character, add_special_tokens=False) if character.isprintable() else []
        if len(ids) == 2 and tokenizer.decode(ids) == character:
            return ids[0], ids[1]
