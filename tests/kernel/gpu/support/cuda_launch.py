"""The kernels of the cuda target under Triton's interpreter, launched by their specs on NumPy arrays.

Triton decides when it is imported whether kernels are compiled or interpreted, so importing this module decides it for
the process; kernels are compiled in processes of their own, where that does not count.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
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
import triton.runtime.interpreter as interpreter  # noqa: E402
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle  # noqa: E402

from inflight.build.gpu_kernels.early_launch import MARKER  # noqa: E402
from inflight.build.gpu_kernels.kernels import all_specs  # noqa: E402
from inflight.build.gpu_kernels.spec import Constant, Extent, Variant  # noqa: E402

Array = npt.NDArray[Any]

# Blocks of any size give the same integers, and the interpreter takes as long for a small one as for a large one.
FASTER_HERE: Mapping[str, Mapping[str, int]] = {"sampling_narrow": {"block": 4096}}


def _create_dot(builder: Any, a: Any, b: Any, total: Any, *_precision: Any) -> Any:
    """a [m, k] b [k, n] + total, each element summed over k in one order, in float64 where the numbers are no integers.

    The interpreter's own is NumPy's, whose order follows its BLAS: the processor, and the place of a row in its tile.
    A kernel whose rows do not depend on their company could then not be told from one whose rows do.
    """
    left, right = (_numbers(builder, handle) for handle in (a, b))
    integers = np.issubdtype(total.data.dtype, np.integer)
    products = np.zeros(total.data.shape, total.data.dtype if integers else np.float64)
    for column, row in zip(left.T.astype(products.dtype), right.astype(products.dtype), strict=True):
        products += column[:, None] * row
    return TensorHandle(products.astype(total.data.dtype) + total.data, total.dtype.scalar)


def _numbers(builder: Any, handle: Any) -> Array:
    """The interpreter keeps bfloat16 and float8 as their bits."""
    kind = handle.dtype.scalar
    if kind == tl.bfloat16:
        return np.asarray((handle.data.astype(np.uint32) << 16).view(np.float32))
    if kind.is_floating() and kind.primitive_bitwidth == 8:
        return np.asarray(builder.create_fp_to_fp(handle, tl.float16, None).data)
    return np.asarray(handle.data)


def _create_inline_asm(builder: Any, assembly: str, _constraints: Any, values: Any, *_options: Any) -> Any:
    """What the interpreter has nothing for: both the order of launches and the cache change no number."""
    assert MARKER in assembly or assembly.startswith("prefetch.global.L2"), f"{assembly} has a meaning"
    shape = values[0].data.shape if values else (1,)
    found = TensorHandle(np.zeros(shape, np.int32), tl.int32)
    return SimpleNamespace(get_result=lambda _index: found)


InterpreterBuilder.create_dot = _create_dot
InterpreterBuilder.create_inline_asm = _create_inline_asm


class _PatchedLanguage:
    """Triton's language as the interpreter has it, from the beginning of a kernel to its end.

    The interpreter patches it anew for every function that a kernel calls, which takes a third of its time.
    """

    depth = 0
    patch = staticmethod(interpreter._patch_lang)
    # Kernels read the first, what the language has in itself the second.
    modules = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    scope: Any = None

    def __init__(self, function: Any) -> None:
        if _PatchedLanguage.depth == 0:
            _PatchedLanguage.scope = self.patch(self.modules)
        _PatchedLanguage.depth += 1

    def restore(self) -> None:
        _PatchedLanguage.depth -= 1
        if _PatchedLanguage.depth == 0:
            _PatchedLanguage.scope.restore()


interpreter._patch_lang = _PatchedLanguage

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
    constants = {**spec.constants(variant, spec.tune(90, variant)), **(tuned or FASTER_HERE.get(function, {}))}
    known = {**constants, **sizes}
    grid = [math.prod(_blocks(extent, known) for extent in axis) for axis in spec.grid]
    kernel = getattr(sys.modules[spec.module], function)
    values = [tensor_of(arguments[argument.name]) for argument in spec.arguments]
    with np.errstate(all="ignore"):  # a GPU says nothing of infinities either
        kernel[tuple(grid)](*values, **constants)


@contextmanager
def programs_in_any_order(rng: np.random.Generator) -> Iterator[None]:
    """Programs of interpreted launches along the first axis run in a random order: any may be the last to end."""
    builder = interpreter.interpreter_builder
    choose, orders = builder.set_grid_idx, {}

    def chosen(x: int, y: int, z: int) -> None:
        count = builder.grid_dim[0]
        if count not in orders:
            orders[count] = rng.permutation(count).tolist()
        choose(orders[count][x], y, z)

    builder.set_grid_idx = chosen
    try:
        yield
    finally:
        del builder.set_grid_idx


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
