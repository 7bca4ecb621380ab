"""Sampling parameters as inputs of the Triton models and back, as inflight.sampling_parameters has them."""

from __future__ import annotations

from typing import Any

import numpy as np

from inflight.runtime.sampling.params import SamplingParams
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
    number = row.rounded(value)
    return np.array([[number & _UINT64_MASK if dtype == "UINT64" else number]], dtype=_DTYPES[dtype])


def _read(row: RowTensors, parameter: SamplingParameter, *, text: bool) -> Any:
    names = [own.text_name if text else own.name for own in parameter.triton]
    if parameter.kind == "ids":
        return row.integers(names[0]) or None
    value = row.one_of(*names)
    if value is None:
        return None
    return {"integer": int, "number": float, "flag": bool}[parameter.kind](value)
