"""C source to a shared library. The same source, level and compiler give the same bytes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from inflight.build.targets.cpu.compiler.cpu_levels import CpuLevel
from inflight.build.targets.cpu.compiler.kept_code import kept_code
from inflight.build.targets.cpu.compiler.toolchain import compiler_version, zig_command, zig_environment
from inflight.errors import BuildError
from inflight.files.scratch import temporary_directory

KERNELS = Path(__file__).parents[1] / "kernels"
_SOURCE, _LIBRARY = "engine.c", "engine.so"

# No -ffast-math: sums keep the order in which they are written, and only written fma calls fuse.
_FLAGS = (
    *("-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-shared", "-fPIC", "-fvisibility=hidden", "-pthread", "-g0"),
    *("-Wall", "-Wextra", "-Wno-unused-function"),
)
_LINUX_LINK_FLAGS = ("-s", "-Wl,--build-id=none", "-lm")
_SHOWN_ERRORS = 5


def code_digest(source: str, level: CpuLevel, compiler: str) -> str:
    """Hex SHA-256 of all that decides the bytes of a library: the translation unit, the kernels, the level, the version
    of the compiler and its flags."""
    digest = hashlib.sha256(repr((source, level, compiler, _FLAGS, _LINUX_LINK_FLAGS)).encode())
    for header in sorted(KERNELS.glob("*.h")):
        digest.update(header.name.encode() + header.read_bytes())
    return digest.hexdigest()


def compile_library(source: str, level: CpuLevel, output: Path, *, cxx: str | None = None) -> None:
    """Compile one translation unit for `level` into the shared library `output`.

    It is compiled in a directory of its own under relative names, so that no path gets into it. `cxx` is a clang to use
    in place of zig: it is always run, since it reads headers of this system. What zig makes is kept (kept_code.py).
    Raises BuildError with the compiler's first errors.
    """
    kept = kept_code() if cxx is None else None
    key = "" if kept is None else code_digest(source, level, compiler_version(cxx))
    library = None if kept is None else kept.get(key)
    if library is None:
        library = _compiled(source, level, cxx)
        if kept is not None:
            kept.put(key, library)
    output.write_bytes(library)


def _compiled(source: str, level: CpuLevel, cxx: str | None) -> bytes:
    with temporary_directory("compile") as directory:
        (directory / _SOURCE).write_text(source, encoding="utf-8")
        for header in sorted(KERNELS.glob("*.h")):
            shutil.copyfile(header, directory / header.name)
        _run(directory, level, cxx)
        return (directory / _LIBRARY).read_bytes()


def _run(directory: Path, level: CpuLevel, cxx: str | None) -> None:
    command = [*_compiler(level, cxx), *_FLAGS, "-o", _LIBRARY, _SOURCE]
    if "linux" in level.triple:
        command += _LINUX_LINK_FLAGS
    environment = zig_environment(local=directory / "zig") if cxx is None else dict(os.environ)
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise BuildError(
            f"The compiler failed for --cpu {level.name} (exit status {done.returncode}):\n{_summary(done.stderr)}"
        )


def _compiler(level: CpuLevel, cxx: str | None) -> list[str]:
    if cxx is None:
        return [*zig_command(), "cc", "-target", level.triple, f"-mcpu={level.zig_cpu}"]
    # Only zig takes the version of the C library in the triple.
    return [cxx, "--target=" + re.sub(r"\.\d.*$", "", level.triple), *level.march]


def _summary(text: str) -> str:
    """The lines that say what is wrong, without the excerpts around them; the end of the text if there are none."""
    lines = text.strip().splitlines()
    errors = [line for line in lines if "error:" in line]
    return "\n".join(f"  {line}" for line in (errors or lines[-_SHOWN_ERRORS:])[:_SHOWN_ERRORS])
