"""Sampling parameters as inputs of the Triton models and back, as inflight.sampling_parameters has them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from inflight.errors import RequestError
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.runtime.structured.reasoning import ReasoningFirst
from inflight.sampling_parameters import INT32_MAX, SAMPLING_PARAMETERS, SamplingParameter
from inflight.triton_backend.wire.request_tensors import Array, RowTensors

_DTYPES: dict[str, Any] = {"INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32, "BOOL": np.bool_}
_UINT64_MASK = (1 << 64) - 1
# The request_output_len that `preprocessing` passes on for a client that gave none: an output of a step must be there.
AS_MANY_AS_FIT = -(1 << 31)

# One value, or one list of ids, is one tensor. What logit_bias takes are two, of the parameters' own.
_ON_THE_WIRE = tuple(row for row in SAMPLING_PARAMETERS if row.triton and row.kind != "bias")

# Name in ensemble and tensorrt_llm_bls -> name in tensorrt_llm.
TEXT_NAMES = {own.text_name: own.name for row in SAMPLING_PARAMETERS for own in row.triton if own.text_name}


# Structured output has the two inputs that TensorRT-LLM calls guided decoding.
_TYPE, _GUIDE = STRUCTURE_INPUTS = ("guided_decoding_guide_type", "guided_decoding_guide")
# What comes before it, as JSON, an input of `tensorrt_llm` alone.
_REASONING = "reasoning"
# Guide type -> the kind of StructuredOutputs. TensorRT-LLM has all but choice, which is a JSON list here.
_KINDS = {
    "json": "json_object",
    "json_schema": "json",
    "regex": "regex",
    "ebnf_grammar": "grammar",
    "structural_tag": "structural_tag",
    "choice": "choice",
}


def write_parameters(params: SamplingParams) -> dict[str, Array]:
    """The inputs of `tensorrt_llm` that ask for `params`, but for logit_bias.

    Inputs of inflight's own are sent only when they ask for something, so that a model repository which an older
    version wrote, and which may not declare them, goes on serving the requests that it can.
    """
    tensors = {
        row.triton[-1].name: _tensor(row, value)
        for row in _ON_THE_WIRE
        if (value := getattr(params, row.name)) is not None and (row.triton[-1].contract or value != row.default)
    }
    return {name: tensor for name, tensor in tensors.items() if tensor.size}


def read_parameters(row: RowTensors) -> dict[str, Any]:
    """The parameters that a row of inputs of `tensorrt_llm` gives, by their names in SamplingParams."""
    return {each.name: value for each in _ON_THE_WIRE if (value := _read(row, each, text=False)) is not None}


def read_text_parameter(row: RowTensors, name: str) -> Any:
    """One parameter out of the inputs of a model that speaks text; None when it is not given."""
    return next(_read(row, each, text=True) for each in _ON_THE_WIRE if each.name == name)


def _tensor(row: SamplingParameter, value: Any) -> Array:
    """[1, 1] for one value, [1, n] for ids. No vocabulary has ids beyond int32, so that none of them means anything."""
    dtype = row.triton[-1].dtype
    if row.kind == "ids":
        return np.array([[token_id for token_id in value if 0 <= token_id <= INT32_MAX]], dtype=_DTYPES[dtype])
    if row.kind == "text":
        return np.array([[value.encode("utf-8")]], dtype=object)
    number = row.rounded(value)
    return np.array([[number & _UINT64_MASK if dtype == "UINT64" else number]], dtype=_DTYPES[dtype])


def _read(row: RowTensors, parameter: SamplingParameter, *, text: bool) -> Any:
    names = [own.text_name if text else own.name for own in parameter.triton]
    if parameter.kind == "ids":
        return row.integers(names[0]) or None
    value = row.one_of(*names)
    if value is None:
        return None
    if parameter.kind == "text":
        return value or None
    return {"integer": int, "number": float, "flag": bool}[parameter.kind](value)


def write_structure(outputs: StructuredOutputs | None) -> dict[str, Array]:
    """The inputs that ask for `outputs`."""
    if outputs is None:
        return {}
    kind = next(name for name, kind in _KINDS.items() if kind == outputs.kind)
    values = {_TYPE: kind, _GUIDE: outputs.value}
    return {name: np.array([[value.encode("utf-8")]], dtype=object) for name, value in values.items() if value}


def read_structure(row: RowTensors) -> StructuredOutputs | None:
    """What a row of inputs asks for; empty strings ask for nothing. Raises RequestError."""
    kind, guide = row.scalar(_TYPE) or "", row.scalar(_GUIDE) or ""
    if not kind and not guide:
        return None
    if kind not in _KINDS:
        raise RequestError(f"{_TYPE} is {kind!r}; it must be one of {', '.join(_KINDS)}.")
    if kind == "json":
        return StructuredOutputs(json_object=True)
    if not guide:
        raise RequestError(f"{_TYPE} is {kind!r}, and {_GUIDE} is empty.")
    if kind == "choice":
        return StructuredOutputs.of({"choice": _choices(guide)})
    return StructuredOutputs.of({_KINDS[kind]: guide})


def write_reasoning(reasoning: ReasoningFirst | None) -> dict[str, Array]:
    """The input that says which reasoning comes first."""
    return {} if reasoning is None else {_REASONING: np.array([[reasoning.text.encode("utf-8")]], dtype=object)}


def read_reasoning(row: RowTensors) -> ReasoningFirst | None:
    """What a row of inputs says of it. Raises RequestError."""
    text = row.scalar(_REASONING)
    return ReasoningFirst.of(text) if text else None


def _choices(guide: str) -> object:
    try:
        return json.loads(guide)
    except (ValueError, RecursionError):
        raise RequestError(f"{_GUIDE} must be a JSON list of strings where {_TYPE} is 'choice'.") from None
