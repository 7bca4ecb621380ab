"""What config.json tells the transformers target, and what it does not take by that alone."""

from __future__ import annotations

from typing import Any, cast

from inflight.build.target import ModelShape
from inflight.convert.source.opened import SourceModel
from inflight.convert.source.quantized.methods import quantization_config
from inflight.engine_format.manifest import Dtype
from inflight.engine_format.transformers_model import read_config
from inflight.errors import BuildError, EngineError

_FLOATS = ("float32", "float16", "bfloat16")
# Where a model's config says how many positions it has; those with ALiBi or a state have any number.
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")


def model_shape(source: SourceModel, dtype: str) -> ModelShape:
    """`dtype`: of the recipe. Raises BuildError for a model that transformers has no causal language model for."""
    config = _model_config(source)
    text = config.get_text_config(decoder=True)
    found = (getattr(text, name, None) for name in _POSITIONS)
    positions = next((value for value in found if isinstance(value, int) and value > 0), None)
    return ModelShape(_stored_dtype(source, config) if dtype == "auto" else cast(Dtype, dtype), positions)


def _model_config(source: SourceModel) -> Any:
    """The config of transformers. Raises BuildError for a model that has none, or no causal language model."""
    if source.location.file is not None:
        raise BuildError(
            f"{source.location} is a GGUF file, which target transformers does not read.",
            "Give the Hugging Face model; --target cpu reads GGUF files.",
        )
    if quantization := quantization_config(source.config):
        method = quantization.get("quant_method", "a method that it does not name")
        raise BuildError(
            f"{source.location} is quantized ({method}), which target transformers does not read.",
            "Give the model that it was made from, or a family of docs/families.md with --target cpu.",
        )
    try:
        config, known = read_config(source.directory)
    except EngineError as error:
        raise _own_code(source) or BuildError(error.message, error.hint) from error
    if not known:
        kind = source.config.get("model_type")
        raise _own_code(source) or BuildError(
            f"{source.location}: transformers has no causal language model of model_type {kind!r}.",
            "Encoders, and models of speech or pictures alone, cannot generate text.",
        )
    return config


def _own_code(source: SourceModel) -> BuildError | None:
    """The refusal of a model that brings Python code, where transformers has no class of its own for it."""
    if not source.config.get("auto_map"):
        return None
    return BuildError(
        f"{source.location} needs Python code of its own (auto_map in config.json), which is not run: "
        "trust_remote_code is off.",
        "Look for a version of the model that transformers has a class for; many have one under another name.",
    )


def _stored_dtype(source: SourceModel, config: Any) -> Dtype:
    """The type that config.json names, or that the tensors share. Raises BuildError when they do not."""
    name = str(getattr(config, "dtype", None) or "").removeprefix("torch.")
    if name in _FLOATS:
        return cast(Dtype, name)
    types = sorted({tensor.dtype for tensor in (source.stored or source.tensors).values() if tensor.dtype in _FLOATS})
    if len(types) != 1:
        found = ", ".join(types) or "none that is known"
        raise BuildError(
            f"{source.location}: config.json names no dtype, and the tensors are {found}.",
            "Choose one: --dtype bfloat16",
        )
    return cast(Dtype, types[0])
