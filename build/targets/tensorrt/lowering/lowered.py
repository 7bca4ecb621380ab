"""What a value of the standard network is while it is being lowered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from inflight.build.targets.tensorrt.api import Tensor
from inflight.build.targets.tensorrt.lowering.host_tensor import Array
from inflight.build.targets.tensorrt.lowering.writer import NetworkWriter, Weight

# Rows in the network; a checkpoint tensor that nothing has read yet; or numbers known now.
Lowered: TypeAlias = "Tensor | Weight | Array"
Operands: TypeAlias = Sequence["Lowered | None"]


def as_tensor(writer: NetworkWriter, operand: Lowered | None, name: str = "constant") -> Tensor:
    """The operand in the network: weights as float32, numbers as a constant called `name`."""
    assert operand is not None, "an operand is missing"
    if isinstance(operand, Weight):
        assert not operand.transposed, "only products read transposed weights"
        return writer.weight(operand, ir.DataType.FLOAT)
    return writer.constant(operand, name) if isinstance(operand, np.ndarray) else operand


def host_array(operand: Lowered | None) -> Array:
    """An operand that must be known when the engine is built."""
    assert isinstance(operand, np.ndarray), "the operand is not a constant"
    return operand
