"""The kernels of the cuda target under Triton's interpreter, launched by their specs on NumPy arrays.

Triton decides when it is imported whether kernels are compiled or interpreted, so importing this module decides it for
the process; kernels are compiled in processes of their own, where that does not count.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")
triton = pytest.importorskip("triton", reason="triton is not installed: pip install inflight-llm[cuda-compile]")
if not triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET is off", allow_module_level=True)

import torch  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle  # noqa: E402

from inflight.build.gpu_kernels.kernels import all_specs  # noqa: E402
from inflight.build.gpu_kernels.spec import Constant, Extent, Variant  # noqa: E402

Array = npt.NDArray[Any]

# Blocks of any size give the same integers, and the interpreter takes as long for a small one as for a large one.
_FASTER_HERE: Mapping[str, Mapping[str, int]] = {"sampling_narrow": {"block": 4096}}

_create_dot = InterpreterBuilder.create_dot


def _create_dot_of_numbers(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
    """The interpreter keeps bfloat16 as its bits, and would multiply those."""
    return _create_dot(builder, _as_float32(a), _as_float32(b), *rest)


def _as_float32(handle: Any) -> Any:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


InterpreterBuilder.create_dot = _create_dot_of_numbers

SPECS = {spec.function: spec for spec in all_specs()}


def interpret(
    function: str,
    variant: Variant,
    arguments: Mapping[str, Array | int],
    sizes: Mapping[str, int],
    tuned: Mapping[str, Constant] | None = None,
) -> None:
    """Run a kernel with the tuning of sm_90; arrays are written in place.

    `sizes` are those of the launch's grid; `tuned` replaces constants of the tuning.
    """
    spec = SPECS[function]
    constants = {**spec.constants(variant, spec.tune(90, variant)), **(tuned or _FASTER_HERE.get(function, {}))}
    known = {**constants, **sizes}
    grid = [math.prod(_blocks(extent, known) for extent in axis) for axis in spec.grid]
    kernel = getattr(sys.modules[spec.module], function)
    values = [tensor_of(arguments[argument.name]) for argument in spec.arguments]
    with np.errstate(all="ignore"):  # a GPU says nothing of infinities either
        kernel[tuple(grid)](*values, **constants)


def _blocks(extent: Extent, known: Mapping[str, Any]) -> int:
    size, per = (known[value] if isinstance(value, str) else value for value in (extent.size, extent.per))
    return -(-int(size) // int(per))


def tensor_of(value: Array | int) -> Any:
    """The same memory as a torch tensor, which is what the interpreter takes."""
    if isinstance(value, int):
        return value
    if value.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value)
