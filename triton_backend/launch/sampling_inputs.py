"""The inputs of the Triton models that carry sampling parameters: blocks of the config.pbtxt templates."""

from __future__ import annotations

from inflight.sampling_parameters import SAMPLING_PARAMETERS, TritonInput

_INPUTS = tuple(own for row in SAMPLING_PARAMETERS for own in row.triton)


def _declare(name: str, own: TritonInput, *, reshaped: bool) -> str:
    lines = [
        f'name: "{name}"',
        f"data_type: TYPE_{own.dtype}",
        f"dims: [ {own.dims} ]",
        *(["reshape: { shape: [ ] }"] if reshaped else []),
        "optional: true",
    ]
    return "\n".join(["  {", *(f"    {line}" for line in lines), "  }"])


def _block(declared: list[str]) -> str:
    return "input [\n" + ",\n".join(declared) + "\n]"


# Placeholder of a template -> what stands there in a written config.pbtxt.
BLOCKS: dict[str, str] = {
    # TensorRT-LLM's scalars come to its model without the dimension of 1 that clients send.
    "sampling_inputs": _block([_declare(own.name, own, reshaped=own.contract) for own in _INPUTS]),
    "text_sampling_inputs": _block(
        [_declare(own.text_name, own, reshaped=False) for own in _INPUTS if own.text_name],
    ),
    "sampling_input_map": "\n      ".join(
        f'input_map {{ key: "{own.name}" value: "{own.text_name}" }}' for own in _INPUTS if own.text_name
    ),
}
