"""Checking a Triton model repository before a server is started on it: every problem names file, key and fix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from inflight.errors import EngineError
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.triton_backend.launch.repository import CONFIG_NAME, MODELS, POOLING, TEMPLATES, too_small_cache
from inflight.triton_backend.launch.sampling_inputs import BLOCKS
from inflight.triton_backend.launch.template_variables import VARIABLES, wrong_parameters
from inflight.triton_backend.launch.unary_models import UNARY_MODELS

_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
_WRITE_ANEW = "Write the repository anew with `inflight make-repo`."


@dataclass(frozen=True, slots=True)
class Problem:
    """`key` is the field, parameter, tensor or template variable inside `file`."""

    file: Path
    key: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}: {self.key}: {self.message} {self.fix}"


def check_repository(directory: Path) -> list[Problem]:
    """Every problem found in the models of `directory`; an empty list means that a server can load it."""
    if not directory.is_dir():
        return [Problem(directory, "directory", "It does not exist.", "Write it with `inflight make-repo ENGINE DIR`.")]
    problems: list[Problem] = []
    configs: dict[str, Any] = {}
    needed = (POOLING,) if (directory / POOLING).is_dir() else MODELS
    for model in (*needed, *(name for name in UNARY_MODELS if (directory / name).is_dir())):
        file = directory / model / CONFIG_NAME
        found = list(_check_text(file))
        problems += found
        if not found:
            configs[model] = _parse(file)
            problems += _check_model(file, model, configs[model])
    return problems + list(_check_together(directory, configs))


def _check_text(file: Path) -> Iterator[Problem]:
    """Problems that make a config.pbtxt unreadable."""
    if not file.is_file():
        yield Problem(file, CONFIG_NAME, "The file is missing.", _WRITE_ANEW)
        return
    text = file.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        for name in _PLACEHOLDER.findall(line):
            yield Problem(file, name, f"Line {number} still has the placeholder ${{{name}}}.", _value_for(name))
    if _PLACEHOLDER.search(text):
        return
    try:
        _parse(file)
    except text_format.ParseError as error:
        yield Problem(file, f"line {error.GetLine()}", f"It is no valid config.pbtxt: {error}.", "Mend that line.")


def _value_for(name: str) -> str:
    if name in BLOCKS:
        return _WRITE_ANEW
    variable = VARIABLES.get(name)
    if variable is None:
        return "No such variable is known; remove it."
    return f"Give it a value: {variable.expected}" + (f" (default {variable.default})." if variable.default else ".")


def _parse(file: Path) -> Any:
    return text_format.Parse(file.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def _check_model(file: Path, model: str, config: Any) -> Iterator[Problem]:
    if config.name and config.name != model:
        yield Problem(file, "name", f'It says "{config.name}" in the folder "{model}".', f'Write name: "{model}".')
    if config.platform != "ensemble":
        if config.backend != "python":
            fix = 'Write backend: "python"; the engines of inflight are loaded by its Python model.'
            yield Problem(file, "backend", f'It is "{config.backend}".', fix)
        code = file.parent / "1" / "model.py"
        if not code.is_file():
            yield Problem(code, "model.py", "The file is missing.", _WRITE_ANEW)
    yield from _check_tensors(file, model, config)
    for wrong in wrong_parameters(_parameters(config)):
        yield Problem(file, wrong.key, f'It is "{wrong.value}".', f"It takes {wrong.expected}.")
    for key in ("gpt_model_path", "tokenizer_dir"):
        yield from _check_directory(file, key, config)


def _parameters(config: Any) -> dict[str, str]:
    return {key: config.parameters[key].string_value for key in config.parameters}


def _check_tensors(file: Path, model: str, config: Any) -> Iterator[Problem]:
    """Every tensor of the template must be declared: clients may send it, and the model then answers or refuses."""
    path = TEMPLATES / UNARY_MODELS.get(model, model) / CONFIG_NAME
    template = _PLACEHOLDER.sub(_filler, path.read_text(encoding="utf-8"))
    expected = text_format.Parse(template, model_config_pb2.ModelConfig())
    for kind in ("input", "output"):
        declared = {tensor.name: tensor for tensor in getattr(config, kind)}
        for tensor in getattr(expected, kind):
            found = declared.get(tensor.name)
            if found is None:
                yield Problem(file, tensor.name, f"The {kind} is not declared.", _WRITE_ANEW)
            elif list(found.dims) != list(tensor.dims):
                fix = f"Write dims: {list(tensor.dims)}."
                yield Problem(file, tensor.name, f"The {kind} has dims {list(found.dims)}.", fix)


def _filler(match: re.Match[str]) -> str:
    """What a template has in place of a placeholder: a block, or a value of the right kind where no quotes are."""
    if match[1] in BLOCKS:
        return BLOCKS[match[1]]
    variable = VARIABLES[match[1]]
    return variable.default or ("1" if "number" in variable.expected else "")


def _check_directory(file: Path, key: str, config: Any) -> Iterator[Problem]:
    value = config.parameters[key].string_value if key in config.parameters else ""
    if value and not Path(value).is_dir():
        yield Problem(file, key, f"{value} is no directory.", "Name the directory as this machine sees it.")


def _check_together(directory: Path, configs: dict[str, Any]) -> Iterator[Problem]:
    """What must agree between the models, and with the engine."""
    policies = {model: configs[model].model_transaction_policy.decoupled for model in configs if model != "ensemble"}
    if policies.get("tensorrt_llm", False) != policies.get("tensorrt_llm_bls", policies.get("tensorrt_llm", False)):
        file = directory / "tensorrt_llm_bls" / CONFIG_NAME
        message = "decoupled differs between tensorrt_llm and tensorrt_llm_bls."
        yield Problem(file, "model_transaction_policy", message, "Give both the same value.")
    for model, config in configs.items():
        core_name = _parameters(config).get("tensorrt_llm_model_name", "")
        if core_name and not (directory / core_name / CONFIG_NAME).is_file():
            message, fix = f'It is "{core_name}"; the repository has no such model.', 'Write "tensorrt_llm".'
            yield Problem(directory / model / CONFIG_NAME, "tensorrt_llm_model_name", message, fix)
    core = configs.get("tensorrt_llm")
    if core is None:
        return
    file = directory / "tensorrt_llm" / CONFIG_NAME
    path = core.parameters["gpt_model_path"].string_value if "gpt_model_path" in core.parameters else ""
    if not path:
        yield Problem(file, "gpt_model_path", "It is empty.", "Name the engine directory (variable engine_dir).")
    elif Path(path).is_dir():
        yield from _check_engine(file, Path(path), core)


def _check_engine(file: Path, engine: Path, config: Any) -> Iterator[Problem]:
    try:
        manifest = read_engine_directory(engine).manifest
    except EngineError as error:
        yield Problem(file, "gpt_model_path", error.message, error.hint or "Name an engine directory.")
        return
    if small := too_small_cache(manifest, _parameters(config)):
        yield Problem(file, small.key, f"It is {small.value}.", f"It takes {small.expected}.")
    if config.max_batch_size < 1:
        fix = f"Write max_batch_size: {manifest.limits.max_batch_size}."
        yield Problem(file, "max_batch_size", f"It is {config.max_batch_size}; clients send a batch dimension.", fix)
