"""Dense modules of sentence-transformers, which come behind pooling: their configs, and where their weights are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inflight.convert.checkpoint.pooling import DenseRecord
from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.names import Names
from inflight.errors import ModelError
from inflight.files.tensor_file import TensorEntry, TensorFileError, read_header

DENSE = "Dense"
_WEIGHTS = "model.safetensors"
# More than any model has.
_MOST = 8
_SOURCE = "sentence_transformers.dense."
_VECTOR = "sentence_embedding"
_ACTIVATIONS = {"Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}
# Modules of the checkpoint -> those of the source, under the names that `dense_tensors` gives.
DENSE_NAMES: Names = {f"pooling.dense.{index}": (f"{_SOURCE}{index}",) for index in range(_MOST)}


def read_dense(configs: Sequence[Mapping[str, Any]], problems: list[str]) -> tuple[DenseRecord, ...]:
    """What each does, of its config.json; problems go there."""
    if len(configs) > _MOST:
        problems.append(f"{len(configs)} Dense modules are not supported (at most {_MOST})")
    return tuple(_record(config, problems) for config in configs[:_MOST])


def name_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Of a module that reads or writes something beside the one vector."""
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, _VECTOR):
            yield f"{key} {config[key]!r} is not supported: {_VECTOR} is"


def _record(config: Mapping[str, Any], problems: list[str]) -> DenseRecord:
    values = ConfigValues(config, {})
    sizes = [values.count(key) for key in ("in_features", "out_features")]
    bias = values.raw.get("bias", True)
    if bias not in (True, False):
        values.problems.append(f"bias must be true or false, not {bias!r}")
    named = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if named not in _ACTIVATIONS:
        values.problems.append(f"activation_function {named} is not supported (supported: {', '.join(_ACTIVATIONS)})")
    values.refuse("use_residual", "what comes in is not added to what comes out")
    values.problems.extend(name_problems(config))
    problems.extend(f"Dense: {problem}" for problem in values.problems)
    activation: Any = _ACTIVATIONS.get(named, "identity")
    return DenseRecord(inputs=sizes[0], outputs=sizes[1], bias=bool(bias), activation=activation)


def dense_tensors(directory: Path, files: Mapping[str, Any]) -> dict[str, TensorEntry]:
    """The weights of all Dense modules, `files` being what `read_files` gives. Raises ModelError."""
    found = {}
    for index, folder in enumerate(dense_folders(files)):
        path = directory / folder / _WEIGHTS
        if not path.is_file():
            raise ModelError(
                f"{directory / folder} has no {_WEIGHTS}: only safetensors are read.",
                "Load the model in sentence-transformers and save it with save_pretrained(...).",
            )
        try:
            header = read_header(path)
        except TensorFileError as error:
            raise ModelError(error.message, error.hint) from error
        for name, entry in header.items():
            found[f"{_SOURCE}{index}.{name.removeprefix('linear.')}"] = entry
    return found


def dense_folders(files: Mapping[str, Any]) -> Iterator[str]:
    for module in files["modules"]:
        if module["type"].rpartition(".")[2] == DENSE:
            yield module["path"]
