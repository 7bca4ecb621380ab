"""The models for unary clients in a repository whose models are decoupled: under a second name, over the same engine.

Triton refuses unary calls of a decoupled model, and a model that is not decoupled cannot stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

# Name -> the decoupled model with the same inputs and outputs.
UNARY_MODELS: Mapping[str, str] = {
    "tensorrt_llm_unary": "tensorrt_llm",
    "ensemble_unary": "ensemble",
    "tensorrt_llm_bls_unary": "tensorrt_llm_bls",
}
_CORE = "tensorrt_llm"
_OWN_PARAMETERS = ("cancellation_check_period_ms", "thread_pool_size")


def unary_config(model: str, decoupled: str) -> str:
    """The config.pbtxt of `model`, from that of its decoupled model."""
    config: Any = text_format.Parse(decoupled, model_config_pb2.ModelConfig())
    config.name = model
    if model == "ensemble_unary":
        for step in config.ensemble_scheduling.step:
            step.model_name = "tensorrt_llm_unary" if step.model_name == _CORE else step.model_name
    else:
        config.model_transaction_policy.decoupled = False
    if model == "tensorrt_llm_unary":
        _make_caller(config)
    return f"# {UNARY_MODELS[model]} for clients that expect one answer.\n{text_format.MessageToString(config)}"


def _make_caller(config: Any) -> None:
    """A model without an engine and a queue: it hands requests on as they come, in the shapes that clients send."""
    for tensor in config.input:
        tensor.ClearField("reshape")
    for key in [key for key in config.parameters if key not in _OWN_PARAMETERS]:
        del config.parameters[key]
    config.parameters["tensorrt_llm_model_name"].string_value = _CORE
    config.ClearField("dynamic_batching")
