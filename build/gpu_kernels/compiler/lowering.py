"""A kernel to PTX with Triton's passes.

They are called one by one, without Triton's own driver of them: that writes every stage to files, and knows of no two
generations that have the same code.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from triton import knobs
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource

from inflight.build.gpu_kernels.early_launch import FIRST_TO_WAIT, with_waiting
from inflight.build.gpu_kernels.spec import Tuning

WARP = 32
# Generations of one major number have the same instructions but for those of 8-bit floats, and take each other's PTX
# upwards: that of the first serves all.
_FIRST_OF_ITS_KIND = {86: 80, 89: 80}
_FLOAT8 = "f8E"
_BODY = re.compile(r"(\.visible \.entry [^{]*)\n\{")


@dataclass(frozen=True)
class Lowered:
    """The PTX of a kernel; `shared_bytes` of a block, `scratch_bytes` of memory that its launch would have to give."""

    ptx: str
    name: str
    num_warps: int
    shared_bytes: int
    scratch_bytes: int


class Lowering:
    """Lowers the variants of a kernel; those whose Triton IR is the same for two generations of a kind, once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int], Lowered] = {}

    def lower(self, source: ASTSource, tuning: Tuning, sm: int) -> Lowered:
        """`tuning.max_registers` is left out: see with_registers. Raises what Triton raises."""
        with _settings():
            backend = CUDABackend(GPUTarget("cuda", sm, WARP))
            options = backend.parse_options(
                # Only a written fma fuses, on every generation.
                {"num_warps": tuning.num_warps, "num_stages": tuning.num_stages, "enable_fp_fusion": False}
            )
            module = _triton_ir(source, backend, options, sm)
            text = str(module)
            known_as = sm if _FLOAT8 in text else _FIRST_OF_ITS_KIND.get(sm, sm)
            key = (text, known_as, tuning.num_warps, tuning.num_stages)
            if key not in self._known:
                self._known[key] = _ptx(module, CUDABackend(GPUTarget("cuda", known_as, WARP)), options, known_as)
            return self._known[key]


def with_registers(ptx: str, most: int) -> str:
    """The same with a limit to the registers of a thread, in place of ptxas' own choice."""
    bounded, places = _BODY.subn(rf"\1\n.maxnreg {most}\n{{", ptx)
    assert places == 1, "a module has one kernel"
    return bounded


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    with knobs.compilation.scope():
        knobs.compilation.disable_line_info = True
        yield


def _triton_ir(source: ASTSource, backend: CUDABackend, options: Any, sm: int) -> Any:
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    module = source.make_ir(backend.target, options, functions, modules, context)
    return backend.make_ttir(module, {}, options, sm)


def _ptx(module: Any, backend: CUDABackend, options: Any, sm: int) -> Lowered:
    facts: dict[str, Any] = {"num_warps": options.num_warps}
    module = backend.make_ttgir(module, facts, options, sm)
    llvm = backend.make_llir(module, facts, options, sm)
    ptx = backend.make_ptx(llvm, facts, options, sm)
    return Lowered(
        ptx=with_waiting(ptx) if sm >= FIRST_TO_WAIT else ptx,
        name=facts["name"],
        num_warps=facts["num_warps"],
        shared_bytes=facts["shared"],
        scratch_bytes=facts["global_scratch_size"] + facts["profile_scratch_size"],
    )
