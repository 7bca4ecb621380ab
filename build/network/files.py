"""Networks on disk: the graph, and beside it the tables that were generated for it."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

from inflight.build.values import name_of, tensor_of

# Smaller constants (shapes, limits) stay inside the graph, where Netron shows them.
_INLINE_BYTES = 1024
_PAGE = 4096


def save_network(model: ir.Model, directory: Path, name: str = "network") -> list[Path]:
    """Write `name`.onnx and, when the graph has large generated constants, `name`.tables; return what was written.

    Initializers that lie in the checkpoint's files keep pointing at those, by file name: put the graph beside them.
    """
    graph_path, tables_path = directory / f"{name}.onnx", directory / f"{name}.tables"
    model = model.clone()
    large = [
        value
        for value in model.graph.initializers.values()
        if not isinstance(value.const_value, ir.ExternalTensor) and tensor_of(value).nbytes > _INLINE_BYTES
    ]
    if large:
        with tables_path.open("wb") as file:
            for value in large:
                value.const_value = _append(file, name_of(value), tensor_of(value), tables_path)
    ir.save(model, graph_path)
    return [graph_path, tables_path] if large else [graph_path]


def _append(file: BinaryIO, name: str, tensor: ir.TensorProtocol, path: Path) -> ir.ExternalTensor:
    # ONNX asks for page-aligned offsets so that the data can be mapped.
    offset = -(-file.tell() // _PAGE) * _PAGE
    file.seek(offset)
    file.write(tensor.tobytes())
    return ir.ExternalTensor(
        location=path.name,
        offset=offset,
        length=tensor.nbytes,
        dtype=tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=name,
        base_dir=str(path.parent),
    )
