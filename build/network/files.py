"""Networks on disk: the graph, and beside it the tables that were generated for it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from inflight.build.graph.values import name_of, tensor_of

# Smaller constants (shapes, limits) stay inside the graph, where Netron shows them.
_INLINE_BYTES = 1024


def save_network(model: ir.Model, directory: Path, name: str = "network") -> list[Path]:
    """Write {name}.onnx, and each large generated constant as {constant}.table; return the paths written.

    Initializers that lie in the checkpoint's file keep pointing at it, by file name: the graph runs beside it. Graphs
    that share a table may share a directory.
    """
    model = model.clone()
    written = [directory / f"{name}.onnx"]
    for value in model.graph.initializers.values():
        tensor = tensor_of(value)
        if not isinstance(tensor, ir.ExternalTensor) and tensor.nbytes > _INLINE_BYTES:
            path = directory / f"{name_of(value)}.table"
            path.write_bytes(tensor.tobytes())
            value.const_value = _whole_file(path, name_of(value), tensor)
            written.append(path)
    ir.save(model, written[0])
    return written


def _whole_file(path: Path, name: str, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        location=path.name,
        offset=0,
        length=tensor.nbytes,
        dtype=tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=name,
        base_dir=str(path.parent),
    )
