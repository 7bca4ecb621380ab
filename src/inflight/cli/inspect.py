"""`inflight inspect`: the contents of an engine, a checkpoint or a Hugging Face model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from inflight.accuracy.record import FoundRecord
    from inflight.convert.checkpoint.directory import Checkpoint
    from inflight.convert.checkpoint.inventory import TensorFacts
    from inflight.engine_format.manifest import EngineManifest

Rows = list[dict[str, Any]]


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="Directory of an engine, a checkpoint or a Hugging Face model, or a GGUF file."
        ),
    ],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor instead of totals per layer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a directory contains: the model's facts, and its tensors by layer, and what was measured of its
    accuracy. Weights are read only where a checkpoint has such a record, to see whether it is one of them.

    Examples:

      inflight inspect engine

      inflight inspect ckpt --tensors

      inflight inspect ./Llama-3.2-1B --json
    """
    from inflight.cli.tables import print_facts, print_rows

    kind, facts, tables = describe(path, tensors)
    if as_json:
        print(json.dumps({"kind": kind, "path": str(path), "facts": facts, "tables": tables}, indent=2))
        return
    print_facts(f"{kind}: {path}", facts)
    for title, rows in tables.items():
        print_rows(title, rows)


def describe(path: Path, every_tensor: bool) -> tuple[str, dict[str, Any], dict[str, Rows]]:
    """The kind of `path` ("engine", "checkpoint", "model"), its facts, and its tables by title.

    Raises InflightError when `path` is none of the three or damaged.
    """
    from inflight.engine_format.manifest import MANIFEST_NAME
    from inflight.errors import InflightError

    if (path / MANIFEST_NAME).is_file():
        return "engine", *_describe_engine(path)
    if (path / "config.json").is_file():
        if _is_checkpoint(path / "config.json"):
            return "checkpoint", *_describe_checkpoint(path, every_tensor)
        return "model", *_describe_model(path, every_tensor)
    if path.is_file() and path.suffix.lower() == ".gguf":
        return "model", *_describe_model(path, every_tensor)
    if not path.is_dir():
        raise InflightError(
            f"{path} is a file." if path.exists() else f"There is no directory {path}.",
            "Give the directory of an engine, a checkpoint or a model, or a GGUF file.",
        )
    raise InflightError(
        f"{path} is neither an engine (manifest.json) nor a checkpoint or model (config.json).",
        "Give a directory that `inflight build-engine` or `inflight convert` wrote, or a Hugging Face model.",
    )


def _is_checkpoint(config: Path) -> bool:
    """A checkpoint names one `architecture`; a Hugging Face model lists `architectures`."""
    from inflight.errors import InflightError
    from inflight.files.json_file import read_json_object

    try:
        return "architecture" in read_json_object(config, InflightError)
    except InflightError:
        return False


def _describe_engine(path: Path) -> tuple[dict[str, Any], dict[str, Rows]]:
    import msgspec

    from inflight.runtime.executors.registry import caution_of
    from inflight.runtime.loading.accuracy import engine_accuracy
    from inflight.runtime.loading.engine_directory import read_engine_directory

    manifest = read_engine_directory(path).manifest
    values = msgspec.to_builtins(manifest)
    accuracy = engine_accuracy(path, manifest)
    precision, files, own = values.pop("precision"), values.pop("files"), values.pop("target_facts")
    tables = {name: value for name, value in own.items() if _is_table(value)}
    values |= {name: value for name, value in own.items() if name not in tables}
    caution = caution_of(manifest.target)
    values |= {} if caution is None else {"caution": caution}
    if (asked := _usual_instruction(path, manifest)) is not None:
        values["pooling"]["instruction"] = asked
    return _with_accuracy(values, accuracy), {
        "modules": [{"module": name, **fields} for name, fields in precision.items()],
        **tables,
        **_listed_tables(path, manifest.listing),
        "files": [{"file": name, **fields} for name, fields in files.items()],
    }


def _usual_instruction(path: Path, manifest: EngineManifest) -> str | None:
    """That of pairs which have none of their own, of an engine whose template takes one."""
    from inflight.errors import InflightError
    from inflight.runtime.pooling.texts import TextReader
    from inflight.runtime.text.tokenizer import load_tokenizer

    if getattr(manifest.pooling, "pair_template", None) is None:
        return None
    try:
        return TextReader(manifest, load_tokenizer(path / "tokenizer")).usual_instruction
    except InflightError:  # of a template that takes no pairs, or of files that are not there: serving says so
        return None


def _with_accuracy(facts: dict[str, Any], found: FoundRecord) -> dict[str, Any]:
    """The facts and, where there is one, the record of accuracy, or why the one that is there is not believed."""
    accuracy = found.facts()
    return facts if accuracy is None else {**facts, "accuracy": accuracy}


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _listed_tables(path: Path, listing: str | None) -> dict[str, Rows]:
    """What the build wrote down about its code: layers and bindings, say."""
    if listing is None:
        return {}
    from inflight.errors import EngineError
    from inflight.files.json_file import read_json_object

    tables = read_json_object(path / listing, EngineError, "Copy the engine again, or build it again.")
    if not all(_is_table(rows) for rows in tables.values()):
        raise EngineError(f"{path / listing} does not hold tables.", "Copy the engine again, or build it again.")
    return tables


def _describe_checkpoint(path: Path, every_tensor: bool) -> tuple[dict[str, Any], dict[str, Rows]]:
    from inflight.build.facts import active_parameters, num_parameters
    from inflight.convert.checkpoint.directory import Checkpoint

    checkpoint = Checkpoint.open(path)
    facts = checkpoint.config.to_json()
    facts["tokenizer"] = checkpoint.tokenizer_directory is not None
    if checkpoint.config.has_experts and len(checkpoint.ranks) == 1:
        facts["parameters"], facts["active_parameters"] = num_parameters(checkpoint), active_parameters(checkpoint)
    facts = _with_accuracy(facts, checkpoint.accuracy())
    ranks = [checkpoint.logical_tensors(rank) for rank in range(len(checkpoint.ranks))]
    modules = _mixed_modules(checkpoint)
    tables = {f"rank {rank}": _tensor_rows(table, every_tensor) for rank, table in enumerate(ranks)}
    return facts, ({"quantized modules": modules} if modules else {}) | tables


def _mixed_modules(checkpoint: Checkpoint) -> Rows:
    """How each module is quantized, where they are in several ways."""
    config = checkpoint.config
    modules = ((name, config.quantization_of(name)) for name in config.quantized_layers)
    return [
        {"module": name, "quant_algo": each.scheme.algorithm, "scheme": each.scheme.name, "group_size": each.group_size}
        for name, each in modules
        if each is not None
    ]


class ListedTensor(NamedTuple):
    """A tensor of a source; `dtype` is what the file holds of it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def _describe_model(path: Path, every_tensor: bool) -> tuple[dict[str, Any], dict[str, Rows]]:
    from inflight.convert.options import ConvertOptions
    from inflight.convert.plan import make_plan
    from inflight.convert.source.model import open_source
    from inflight.errors import ModelError

    source = open_source(path, None)
    try:
        make_plan(str(source.location), source.config, source.tensors, ConvertOptions())
        convertible = "yes"
    except ModelError as error:
        convertible = f"no: {error}"
    tensors = {
        name: ListedTensor(name, tensor.shape, tensor.stored_type, tensor.nbytes)
        for name, tensor in source.tensors.items()
    }
    facts = {**source.config, "convertible": convertible}
    if source.quantized is not None:
        facts["quantized"] = source.quantized
    return facts, {"tensors": _tensor_rows(tensors, every_tensor)}


def _tensor_rows(table: Mapping[str, TensorFacts], every_tensor: bool) -> Rows:
    from inflight.convert.checkpoint.inventory import group_by_layer

    groups = group_by_layer(table.values())
    if every_tensor:
        return [
            {"tensor": entry.name, "shape": list(entry.shape), "type": entry.dtype, "bytes": entry.nbytes}
            for group in groups
            for entry in group.tensors
        ]
    return [
        {
            "layer": group.name,
            "tensors": len(group.tensors),
            "parameters": group.parameters,
            "type": ", ".join(group.dtypes),
            "bytes": group.nbytes,
        }
        for group in groups
    ]
