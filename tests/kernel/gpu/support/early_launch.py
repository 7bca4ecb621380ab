"""What a kernel does before it waits for the launch before it: in its PTX, and interpreted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.gpu_kernels.early_launch import MARKER
from tests.kernel.gpu.support.cuda_launch import SPECS  # noqa: F401  (before triton is imported)

from triton.runtime import interpreter  # isort: skip

Array = npt.NDArray[Any]
_MEMORY = re.compile(r"\b((?:ld|st|atom|red|cp|prefetch)\.[\w.:]*)")
_OWN = (".param", ".shared")
_METHODS = ("create_masked_load", "create_masked_store", "create_atomic_rmw")


def _front(ptx: str) -> str:
    body = ptx[ptx.index(".entry") :]
    assert body.count("griddepcontrol.wait") == 1 == body.count("griddepcontrol.launch_dependents")
    return body[: body.index("griddepcontrol.wait")]


def touched_before_the_wait(ptx: str) -> list[str]:
    """The operations on memory that other launches see, but for prefetches."""
    return [each for each in _operations(_front(ptx)) if not each.startswith("prefetch")]


def prefetches(ptx: str) -> tuple[int, int]:
    """How many there are in front of the wait, and how many in all."""
    early, all_of_them = (sum(each.startswith("prefetch") for each in _operations(part)) for part in (_front(ptx), ptx))
    return early, all_of_them


def _operations(ptx: str) -> list[str]:
    return [each for each in _MEMORY.findall(ptx) if ".global" in each or not any(own in each for own in _OWN)]


@contextmanager
def noted_memory() -> Iterator[list[tuple[str, Array]]]:
    """(what, addresses) of all that interpreted programs do, in order: "prefetch", "awaited" or "touch"."""
    noted: list[tuple[str, Array]] = []
    nothing = np.zeros(0, np.uint64)

    def noting(method: Any) -> Any:
        def run(builder: Any, *given: Any) -> Any:
            places = next(each for each in given if hasattr(each, "data"))
            noted.append(("touch", places.data.copy()))
            return method(builder, *given)

        return run

    language = interpreter.InterpreterBuilder
    assembles = language.create_inline_asm

    def assemble(builder: Any, assembly: str, constraints: Any, values: Any, *options: Any) -> Any:
        noted.append(("awaited", nothing) if MARKER in assembly else ("prefetch", values[0].data.astype(np.uint64)))
        return assembles(builder, assembly, constraints, values, *options)

    with pytest.MonkeyPatch.context() as patch:
        for name in _METHODS:
            patch.setattr(language, name, noting(getattr(language, name)))
        patch.setattr(language, "create_inline_asm", assemble)
        yield noted
