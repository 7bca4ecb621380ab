"""The Triton repository of several engines: each has the models of one, with its name in front."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from inflight.triton_backend.launch.repository import CONFIG_NAME, RepositoryOptions, write_repository
from inflight.triton_backend.models.names import TRITON_SEPARATOR, ServedModel

_CORE, _ENCODER = "tensorrt_llm_model_name", "preprocessing_model_name"


def triton_name(model: str, part: str) -> str:
    """`small.tensorrt_llm`."""
    return f"{model}{TRITON_SEPARATOR}{part}"


def add_models(model: ServedModel, repository: Path, overrides: Mapping[str, str]) -> list[str]:
    """Write the Triton models of an engine into `repository`, and return their names. Raises what write_repository
    does."""
    scratch = repository.parent / f"{model.name}.parts"
    shutil.rmtree(scratch, ignore_errors=True)
    write_repository(model.engine_dir, scratch, RepositoryOptions(overrides))
    repository.mkdir(exist_ok=True)
    remove_models(model, repository)
    names = []
    for part in sorted(path.name for path in scratch.iterdir() if path.is_dir()):
        config = scratch / part / CONFIG_NAME
        config.write_text(_renamed(model.name, config.read_text(encoding="utf-8")), encoding="utf-8")
        names.append(triton_name(model.name, part))
        (scratch / part).rename(repository / names[-1])
    shutil.rmtree(scratch)
    return names


def models_of(model: ServedModel, repository: Path) -> list[str]:
    """Those that lie there. No name of a model is another one's with a separator and a Triton model's behind it, since
    Triton's have none."""
    begin = f"{model.name}{TRITON_SEPARATOR}"
    found = sorted(path.name for path in repository.glob(f"{begin}*"))
    return [name for name in found if TRITON_SEPARATOR not in name[len(begin) :]]


def remove_models(model: ServedModel, repository: Path) -> None:
    for name in models_of(model, repository):
        shutil.rmtree(repository / name)


def _renamed(model: str, text: str) -> str:
    config: Any = text_format.Parse(text, model_config_pb2.ModelConfig())
    own = config.name
    config.name = triton_name(model, own)
    for step in config.ensemble_scheduling.step:
        step.model_name = triton_name(model, step.model_name)
    if _CORE in config.parameters:
        core = config.parameters[_CORE].string_value
        config.parameters[_CORE].string_value = triton_name(model, core)
    if own.startswith("tensorrt_llm_bls"):
        config.parameters[_ENCODER].string_value = triton_name(model, "preprocessing")
    renamed: str = text_format.MessageToString(config)
    return renamed
