"""Structured output as the two inputs that TensorRT-LLM's models have for it (guided decoding)."""

from __future__ import annotations

import json

import numpy as np

from inflight.errors import RequestError
from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.triton_backend.wire.request_tensors import Array, RowTensors

_TYPE, _GUIDE = STRUCTURE_INPUTS = ("guided_decoding_guide_type", "guided_decoding_guide")
# Guide type -> the kind of StructuredOutputs. TensorRT-LLM has all but choice, which is a JSON list here.
_KINDS = {
    "json": "json_object",
    "json_schema": "json",
    "regex": "regex",
    "ebnf_grammar": "grammar",
    "choice": "choice",
}


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


def _choices(guide: str) -> object:
    try:
        return json.loads(guide)
    except (ValueError, RecursionError):
        raise RequestError(f"{_GUIDE} must be a JSON list of strings where {_TYPE} is 'choice'.") from None
