"""rank0.weights: a safetensors file of the tensors as the plan reads them, by the names of its weights or inputs.

Elements of four bits are stored as uint8, two in a byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from inflight.build.targets.tensorrt.lowering.host_tensor import HostTensor
from inflight.files.tensor_file import encode_header
from inflight.progress import Advance


def weights_bytes(tensors: Sequence[HostTensor]) -> int:
    return sum(tensor.nbytes() for tensor in tensors)


def write_weights(tensors: Sequence[HostTensor], path: Path, advance: Advance) -> None:
    """One tensor is in memory at a time. `advance` is called with the bytes of each.

    Wide elements come first, so that every element lies at a multiple of its size: TensorRT reads them where they are.
    """
    tensors = sorted(tensors, key=lambda tensor: -int(tensor.dtype.bitwidth))
    with path.open("wb") as file:
        file.write(encode_header({tensor.name: _stored(tensor) for tensor in tensors}))
        for tensor in tensors:
            data = tensor.packed()
            file.write(data.data)
            advance(data.nbytes)


def _stored(tensor: HostTensor) -> tuple[str, tuple[int, ...]]:
    if tensor.dtype == ir.DataType.INT4:
        return "uint8", (tensor.nbytes(),)
    return str(tensor.dtype.numpy().name), tensor.shape
