"""One kernel through Triton and ptxas. Imported by compile workers only: it imports triton."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from dataclasses import replace
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from inflight.build.gpu_kernels import assembler
from inflight.build.gpu_kernels.architectures import architecture_of
from inflight.build.gpu_kernels.early_launch import FIRST_TO_WAIT, WAIT, with_waiting
from inflight.build.gpu_kernels.spec import Constant, Extent, KernelSpec, Tuning, Variant
from inflight.engine_format.gpu_artifact import Artifact, ArtifactArgument, ArtifactExtent
from inflight.errors import BuildError
from inflight.files.scratch import temporary_directory

_ALIGNMENT = 16
_WARP = 32
_SHOWN_LINES = 8
_MORE_REGISTERS = (24, 48, 96)
_MOST_REGISTERS, _REGISTERS_OF_A_BLOCK = 255, 65536
_REGISTERS = re.compile(r"Used (\d+) registers")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def compile_kernel(spec: KernelSpec, variant: Variant, sm: int) -> Artifact:
    """Compile one variant for one generation. Raises BuildError, with the compiler's reason."""
    architecture = architecture_of(sm)
    tuning = spec.tune(sm, variant)
    constants = spec.constants(variant, tuning)
    compiled, log = _run(spec, variant, tuning, sm)
    if spec.decode_path:
        compiled, log = _unspilled(spec, variant, tuning, sm, compiled, log)
    metadata = compiled.metadata
    if metadata.shared > architecture.shared_bytes:
        raise BuildError(
            f"{_title(spec, constants, sm)} asks for {metadata.shared} bytes of shared memory;"
            f" {architecture.cards} have {architecture.shared_bytes}.",
            "Choose smaller blocks or fewer stages in its tuning.",
        )
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        raise BuildError(f"{_title(spec, constants, sm)} asks for scratch memory, which no launch gives.")
    stack, stores, loads = _numbers(_STACK, log)
    return Artifact(
        kernel=spec.function,
        entry=metadata.name,
        sm=sm,
        arguments=arguments_of(spec, variant),
        types=dict(variant.types),
        constants=constants,
        grid=grid_of(spec, constants),
        threads=metadata.num_warps * _WARP,
        num_stages=tuning.num_stages,
        shared_bytes=metadata.shared,
        registers=_numbers(_REGISTERS, log)[0],
        stack_bytes=stack,
        spill_store_bytes=stores,
        spill_load_bytes=loads,
        waits=WAIT in compiled.asm["ptx"],
        tools={"triton": triton.__version__, "ptxas": get_ptxas(sm).version},
        cubin=compiled.asm["cubin"],
        ptx=compiled.asm["ptx"],
    )


def _unspilled(spec: KernelSpec, variant: Variant, tuning: Tuning, sm: int, compiled: Any, log: str) -> tuple[Any, str]:
    """The same with more registers where that takes some: ptxas aims at a number with which more blocks fit into a
    processor, and spills a few bytes to reach it."""
    threads, used = compiled.metadata.num_warps * _WARP, _numbers(_REGISTERS, log)[0]
    for more in _MORE_REGISTERS:
        if not any(_numbers(_STACK, log)[1:]):
            break
        most = min(used + more, _MOST_REGISTERS, _REGISTERS_OF_A_BLOCK // threads)
        compiled, log = _run(spec, variant, replace(tuning, max_registers=most), sm)
    return compiled, log


def _run(spec: KernelSpec, variant: Variant, tuning: Tuning, sm: int) -> tuple[Any, str]:
    """The compiled kernel and the report of ptxas."""
    constants = spec.constants(variant, tuning)
    options = {
        "num_warps": tuning.num_warps,
        "num_stages": tuning.num_stages,
        "maxnreg": tuning.max_registers,
        # Only a written fma fuses, on every generation.
        "enable_fp_fusion": False,
    }
    log = io.StringIO()
    with _compiler_settings(), contextlib.redirect_stdout(log):
        try:
            source = _source(spec, variant, constants)
            return triton.compile(source, target=GPUTarget("cuda", sm, _WARP), options=options), log.getvalue()
        except Exception as error:
            raise BuildError(f"{_title(spec, constants, sm)} does not compile:\n{_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The end of the innermost message: Triton shows lines of the kernel before it, ptxas its log."""
    while error.__cause__ is not None:
        error = error.__cause__
    return "\n".join(str(error).strip().splitlines()[-_SHOWN_LINES:]) or type(error).__name__


@contextlib.contextmanager
def _compiler_settings() -> Any:
    """ptxas' report on standard output, no line information, and a cache that ends with the compilation."""
    settings = (knobs.compilation, knobs.nvidia, knobs.cache, knobs.runtime)
    with contextlib.ExitStack() as scopes, temporary_directory("triton") as scratch:
        for each in settings:
            scopes.enter_context(each.scope())
        knobs.runtime.add_stages_inspection_hook = _own_stages
        knobs.compilation.disable_line_info = True
        knobs.cache.dir = str(scratch)
        yield


def _own_stages(*stage: Any) -> Any:
    """As _with_waiting, and the last stage is ours."""
    key = _with_waiting(*stage)
    if stage:
        _, stages, _, _, capability = stage
        stages["cubin"] = lambda ptx, metadata: _assembled(ptx, capability)
    return key


def _assembled(ptx: str, sm: int) -> bytes:
    cubin, report = assembler.assemble(ptx, sm)
    print(report)
    return cubin


def _with_waiting(*stage: Any) -> Any:
    """Triton's hook into its stages: called with nothing for what its cache's key is to have, then with (backend,
    stages, options, language, capability)."""
    if not stage:
        return WAIT, WAIT
    _, stages, _, _, capability = stage
    if capability >= FIRST_TO_WAIT:
        assemble = stages["ptx"]
        stages["ptx"] = lambda source, metadata: with_waiting(assemble(source, metadata))
    return None


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
