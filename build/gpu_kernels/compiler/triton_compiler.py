"""One kernel to its artifacts. Imported by compile workers only: it imports triton."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import triton
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from inflight.build.gpu_kernels.architectures import Architecture, architecture_of
from inflight.build.gpu_kernels.compiler.assembler import assemble
from inflight.build.gpu_kernels.compiler.lowering import WARP, Lowered, Lowering, with_registers
from inflight.build.gpu_kernels.early_launch import WAIT
from inflight.build.gpu_kernels.spec import Constant, Extent, KernelSpec, Tuning, Variant
from inflight.engine_format.gpu_artifact import Artifact, ArtifactArgument, ArtifactExtent
from inflight.errors import BuildError

_ALIGNMENT = 16
_SHOWN_LINES = 8
_MORE_REGISTERS = (24, 48, 96)
_MOST_REGISTERS, _REGISTERS_OF_A_BLOCK = 255, 65536
_REGISTERS = re.compile(r"Used (\d+) registers")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def compile_kernel(spec: KernelSpec, variant: Variant, sms: Sequence[int]) -> list[Artifact]:
    """Compile one variant for each of some generations. Raises BuildError, with the compiler's reason."""
    lowering = Lowering()
    return [_compile(lowering, spec, variant, sm) for sm in sms]


@dataclass(frozen=True)
class _Assembled:
    """What a tuning became; `report` is that of ptxas. The limit of registers is in the PTX."""

    tuning: Tuning
    lowered: Lowered
    ptx: str
    cubin: bytes
    report: str

    @property
    def spilled(self) -> int:
        """Bytes of a thread."""
        return sum(_numbers(_STACK, self.report)[1:])

    @property
    def registers(self) -> int:
        return _numbers(_REGISTERS, self.report)[0]


def _compile(lowering: Lowering, spec: KernelSpec, variant: Variant, sm: int) -> Artifact:
    best: _Assembled | None = None
    tuning: Tuning | None = spec.tune(sm, variant)
    while tuning is not None and (best is None or best.spilled):
        found = _tried(lowering, spec, variant, tuning, sm)
        best = found if best is None or found.spilled < best.spilled else best
        tuning = tuning.instead
    assert best is not None, "a kernel has a tuning"
    constants = spec.constants(variant, best.tuning)
    _refuse_memory(best.lowered, architecture_of(sm), _title(spec, constants, sm))
    stack, stores, loads = _numbers(_STACK, best.report)
    return Artifact(
        kernel=spec.function,
        entry=best.lowered.name,
        sm=sm,
        arguments=arguments_of(spec, variant),
        types=dict(variant.types),
        constants=constants,
        grid=grid_of(spec, constants),
        threads=best.lowered.num_warps * WARP,
        num_stages=best.tuning.num_stages,
        shared_bytes=best.lowered.shared_bytes,
        registers=best.registers,
        stack_bytes=stack,
        spill_store_bytes=stores,
        spill_load_bytes=loads,
        waits=WAIT in best.ptx,
        tools={"triton": triton.__version__, "ptxas": get_ptxas(sm).version},
        cubin=best.cubin,
        ptx=best.ptx,
    )


def _tried(lowering: Lowering, spec: KernelSpec, variant: Variant, tuning: Tuning, sm: int) -> _Assembled:
    constants = spec.constants(variant, tuning)
    try:
        lowered = lowering.lower(_source(spec, variant, constants), tuning, sm)
        return _assembled(lowered, tuning, sm, unspilled=spec.decode_path)
    except Exception as error:
        raise BuildError(f"{_title(spec, constants, sm)} does not compile:\n{_reason(error)}") from error


def _assembled(lowered: Lowered, tuning: Tuning, sm: int, *, unspilled: bool) -> _Assembled:
    """`unspilled`: with more registers where that takes some: ptxas aims at a number with which more blocks fit into a
    processor, and spills a few bytes to reach it."""
    ptx = with_registers(lowered.ptx, tuning.max_registers) if tuning.max_registers else lowered.ptx
    found = first = _Assembled(tuning, lowered, ptx, *assemble(ptx, sm))
    for more in _MORE_REGISTERS if unspilled else ():
        if not found.spilled:
            break
        most = min(first.registers + more, _MOST_REGISTERS, _REGISTERS_OF_A_BLOCK // (lowered.num_warps * WARP))
        ptx = with_registers(lowered.ptx, most)
        found = _Assembled(tuning, lowered, ptx, *assemble(ptx, sm))
    return found


def _refuse_memory(lowered: Lowered, architecture: Architecture, title: str) -> None:
    if lowered.shared_bytes > architecture.shared_bytes:
        raise BuildError(
            f"{title} asks for {lowered.shared_bytes} bytes of shared memory;"
            f" {architecture.cards} have {architecture.shared_bytes}.",
            "Choose smaller blocks or fewer stages in its tuning.",
        )
    if lowered.scratch_bytes:
        raise BuildError(f"{title} asks for scratch memory, which no launch gives.")


def _reason(error: BaseException) -> str:
    """The end of the innermost message: Triton shows lines of the kernel before it, ptxas its log."""
    while error.__cause__ is not None:
        error = error.__cause__
    return "\n".join(str(error).strip().splitlines()[-_SHOWN_LINES:]) or type(error).__name__


def _source(spec: KernelSpec, variant: Variant, constants: dict[str, Constant]) -> ASTSource:
    function = getattr(importlib.import_module(spec.module), spec.function)
    signature = {**spec.signature(variant), **dict.fromkeys(constants, "constexpr")}
    if set(signature) != set(function.arg_names):
        wrong = sorted(set(signature) ^ set(function.arg_names))
        raise BuildError(f"The parameters of {spec.function} and its KernelSpec differ: {', '.join(wrong)}.")
    ordered = {name: signature[name] for name in function.arg_names}
    places = {name: index for index, name in enumerate(function.arg_names)}
    aligned = [argument.name for argument in arguments_of(spec, variant) if argument.alignment == _ALIGNMENT]
    attributes = {(places[name],): [["tt.divisibility", _ALIGNMENT]] for name in aligned}
    return ASTSource(function, ordered, constants, attributes)


def arguments_of(spec: KernelSpec, variant: Variant) -> tuple[ArtifactArgument, ...]:
    """What a launch passes, in order."""
    types = spec.signature(variant)
    return tuple(
        ArtifactArgument(
            name=argument.name,
            type=types[argument.name],
            alignment=_ALIGNMENT if argument.multiple_of_16 or types[argument.name].startswith("*") else 1,
        )
        for argument in spec.arguments
    )


def grid_of(spec: KernelSpec, constants: dict[str, Constant]) -> tuple[tuple[ArtifactExtent, ...], ...]:
    """With sizes where they are constants."""
    return tuple(tuple(_extent(extent, constants) for extent in axis) for axis in spec.grid)


def _extent(extent: Extent, constants: dict[str, Constant]) -> ArtifactExtent:
    size = constants.get(extent.size, extent.size) if isinstance(extent.size, str) else extent.size
    per = constants[extent.per] if isinstance(extent.per, str) else extent.per
    return ArtifactExtent(size=size if isinstance(size, str) else int(size), per=int(per))


def _numbers(pattern: re.Pattern[str], log: str) -> tuple[int, ...]:
    found = pattern.search(log)
    if found is None:
        raise BuildError("ptxas did not report registers and spills.", "Use the triton of the cuda extra.")
    return tuple(int(number) for number in found.groups())


def _title(spec: KernelSpec, constants: dict[str, Constant], sm: int) -> str:
    return f"{spec.function} for sm_{sm} ({', '.join(f'{name}={value}' for name, value in constants.items())})"
