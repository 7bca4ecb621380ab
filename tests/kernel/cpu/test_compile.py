"""Compiling: levels, cross builds, reproducible bytes, and errors that a person can read."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.build.targets.cpu.compiler import compile as compiling
from inflight.build.targets.cpu.compiler import cpu_levels
from inflight.build.targets.cpu.compiler.compile import compile_library
from inflight.build.targets.cpu.compiler.cpu_levels import LEVELS, find_level, native_level, resolve_levels
from inflight.build.targets.cpu.compiler.kept_code import VARIABLE
from inflight.build.targets.cpu.compiler.toolchain import compiler_version
from inflight.errors import BuildError
from inflight.runtime.executors.cpu.features import normalize_feature, this_machine
from tests.network.support import chosen, some_of

pytestmark = pytest.mark.kernel

_X86_64, _AARCH64 = 62, 183
SOURCE = """
#include "attention.h"
__attribute__((visibility("default"))) void activations(const float *x, float *y) {
    store16(F32, y, 0, silu16(load16(F32, x, 0)));
}
"""


def _elf_machine(path: Path) -> int:
    header = path.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    return int(struct.unpack_from("<H", header, 18)[0])


# Zig makes its own libraries for each.
@pytest.mark.parametrize(
    "case", [*some_of(1, [("neoverse_v1", _AARCH64), ("aarch64", _AARCH64)]), ("x86-64-v3", _X86_64)]
)
def test_a_machine_that_is_not_here_can_be_compiled_for(case: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    name, machine = chosen(case, rng)
    compile_library(SOURCE, find_level(name), tmp_path / "library")
    assert _elf_machine(tmp_path / "library") == machine


def test_apple_silicon_can_be_compiled_for(tmp_path: Path) -> None:
    compile_library(SOURCE, find_level("apple_m1"), tmp_path / "library")
    assert (tmp_path / "library").read_bytes()[:4] == b"\xcf\xfa\xed\xfe"


def test_the_library_needs_libc_alone_and_holds_no_path(tmp_path: Path) -> None:
    compile_library(SOURCE, find_level("x86-64-v3"), tmp_path / "library")
    content = (tmp_path / "library").read_bytes()
    needed = set(re.findall(rb"\b(?:lib|ld-)[\w.+-]+\.so[.\d]*", content))
    assert needed <= {b"libc.so.6", b"libm.so.6", b"libpthread.so.0", b"ld-linux-x86-64.so.2"}
    assert b"/home" not in content and os.getcwd().encode() not in content and b"/tmp" not in content


def test_the_same_source_gives_the_same_bytes_with_another_cache_and_no_home(tmp_path: Path) -> None:
    compile_library(SOURCE, find_level("x86-64-v3"), tmp_path / "first")
    code = (
        "import sys, pathlib\n"
        "from inflight.build.targets.cpu.compiler.compile import compile_library\n"
        "from inflight.build.targets.cpu.compiler.cpu_levels import find_level\n"
        "compile_library(sys.stdin.read(), find_level('x86-64-v3'), pathlib.Path(sys.argv[1]))\n"
    )
    # Zig's own libraries are made anew, too.
    environment = {"PATH": "/nowhere", "TMPDIR": str(tmp_path), "INFLIGHT_CACHE": str(tmp_path / "cache")}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "second")],
        input=SOURCE, text=True, check=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_what_was_compiled_is_kept_and_not_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Unless the source, the level or a kernel is another, or nothing is to be kept."""
    source, level = f"int number_{rng.integers(1 << 30)};\n" + SOURCE, find_level("x86-64-v3")
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))
    compile_library(source, level, tmp_path / "first")

    class Ran(Exception):
        pass

    def run(*given: object) -> None:
        raise Ran

    monkeypatch.setattr(compiling, "_run", run)
    compile_library(source, level, tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    for other, at in ((source + "\n", level), (source, find_level("x86-64-v4"))):
        with pytest.raises(Ran):
            compile_library(other, at, tmp_path / "third")
    with monkeypatch.context() as patch, pytest.raises(Ran):
        shutil.copytree(compiling.KERNELS, tmp_path / "kernels")
        (tmp_path / "kernels" / "pool.h").open("a").write("\n")
        patch.setattr(compiling, "KERNELS", tmp_path / "kernels")
        compile_library(source, level, tmp_path / "third")
    monkeypatch.setenv(VARIABLE, "0")
    with pytest.raises(Ran):
        compile_library(source, level, tmp_path / "third")
    monkeypatch.setenv(VARIABLE, "a lot")
    with pytest.raises(BuildError, match=f"{VARIABLE} is 'a lot'"):
        compile_library(source, level, tmp_path / "third")


def test_a_compiler_error_is_summarized(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"(?s)--cpu x86-64-v3.*engine\.c:3.*error: .*missing") as raised:
        compile_library("\n\nint f(void) { return missing; }\n", find_level("x86_64_v3"), tmp_path / "library")
    assert len(raised.value.message.splitlines()) < 5
    assert not (tmp_path / "library").exists()


def test_the_native_level_is_a_named_one_that_the_loader_accepts_here() -> None:
    level = find_level("native")
    assert level in LEVELS
    assert {normalize_feature(name) for name in level.features} <= this_machine().features


def test_the_native_level_has_tiles_where_the_machine_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a process that may not use them are no features: describe_native leaves them out."""
    features = set(find_level("sapphirerapids").features)
    for found, name in ((features, "sapphirerapids"), ({each for each in features if "amx" not in each}, "znver5")):
        monkeypatch.setattr(cpu_levels, "describe_native", lambda found=found: (["x86_64", "linux"], "a CPU", found))
        assert native_level().name == name


def test_an_unknown_level_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(BuildError, match="pentium") as raised:
        find_level("pentium")
    assert raised.value.hint is not None and all(level.name in raised.value.hint for level in LEVELS)


def test_levels_are_resolved_once_each_and_the_best_comes_first() -> None:
    assert [level.name for level in resolve_levels(["x86-64-v3", "znver5", "x86_64_v3"])] == ["znver5", "x86-64-v3"]
    assert resolve_levels(["native", native_level().name]) == (native_level(),)


def test_a_compiler_that_is_not_there_or_not_clang_is_refused() -> None:
    with pytest.raises(BuildError, match="no-such-clang"):
        compiler_version("no-such-clang")
    with pytest.raises(BuildError, match="clang"):
        compiler_version("true")
