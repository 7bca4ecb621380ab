"""export_onnx: the standard network of a checkpoint with its weights, for ONNX Runtime and other tools."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from inflight.build.network.files import save_network
from inflight.build.network.network import build_network
from inflight.build.recipe import BuildRecipe
from inflight.convert.checkpoint.directory import TOKENIZER_DIRECTORY, Checkpoint
from inflight.convert.quantization.scale_values import check_scales
from inflight.errors import BuildError
from inflight.files import atomic_directory
from inflight.progress import progress_bar

NETWORK_NAME = "model"

_COPY_BYTES = 1 << 22


@dataclass(frozen=True)
class Exported:
    """network: the ONNX file. files: that, and beside it those that it names: weights and tables. opset: of ONNX."""

    architecture: str
    network: Path
    files: tuple[Path, ...]
    opset: int
    max_seq_len: int
    quantized: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)


class _ExportRecipe(BuildRecipe):
    """What a network has of a recipe: the longest sequence."""

    target = "onnx"


def export_onnx(
    checkpoint_dir: Path, output: Path, *, max_seq_len: int | None = None, overwrite: bool = False
) -> Exported:
    """Write the network (build/network/network.py) of a checkpoint, its weights and the tokenizer into a directory.

    max_seq_len: the length of the caches; None: as `inflight build-engine`. The same checkpoint gives the same bytes.
    Raises CheckpointError, BuildError, and InflightError when `output` exists and `overwrite` is false; nothing is left
    behind then.
    """
    checkpoint = Checkpoint.open(checkpoint_dir)
    recipe = _ExportRecipe(max_seq_len=max_seq_len).resolve(checkpoint.config)
    check_scales(checkpoint)
    network = build_network(checkpoint, recipe.limits.max_seq_len)
    check_standard(network)
    with atomic_directory(output, overwrite=overwrite, marker=f"{NETWORK_NAME}.onnx") as scratch:
        weights = checkpoint.rank_file()
        _check_disk(scratch, weights.stat().st_size)
        written = [*save_network(network, scratch, NETWORK_NAME), _copy(weights, scratch)]
        if checkpoint.tokenizer_directory is not None:
            shutil.copytree(checkpoint.tokenizer_directory, scratch / TOKENIZER_DIRECTORY)
        names = [path.name for path in written]
    return Exported(
        architecture=checkpoint.config.architecture,
        network=output / names[0],
        files=tuple(output / name for name in names),
        opset=network.opset_imports[""],
        max_seq_len=recipe.limits.max_seq_len,
        quantized=tuple(checkpoint.config.module_quantization.algorithms),
    )


def check_standard(network: ir.Model) -> None:
    """Raises BuildError for operators that ONNX does not have, and that the network does not bring as a function."""
    own = {(function.domain, function.name) for function in network.functions.values()}
    bodies = [network.graph, *(function.graph for function in network.functions.values())]
    used = {(node.domain, node.op_type) for body in bodies for node in body}
    foreign = sorted(f"{domain}.{kind}" for domain, kind in used - own if domain not in ("", "ai.onnx"))
    if foreign:
        raise BuildError(
            f"The network has operators that are not ONNX's: {', '.join(foreign)}.",
            "Convert the model without quantization, or with --dequantize.",
        )


def _copy(weights: Path, directory: Path) -> Path:
    """The graph names the file of the weights, so the copy keeps its name."""
    with (
        progress_bar("Copying weights", weights.stat().st_size) as advance,
        weights.open("rb") as source,
        (directory / weights.name).open("wb") as copy,
    ):
        while chunk := source.read(_COPY_BYTES):
            copy.write(chunk)
            advance(len(chunk))
    return directory / weights.name


def _check_disk(directory: Path, nbytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < nbytes:
        raise BuildError(
            f"The weights take {nbytes:,} bytes and {directory.parent} has {free:,} free.",
            "Free some space or choose another directory.",
        )
