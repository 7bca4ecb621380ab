"""The compilers: zig from the ziglang wheel, or another clang by name."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
from pathlib import Path

from inflight.errors import BuildError
from inflight.extras import install_hint
from inflight.files.cache import writable_cache_dir

_GLOBAL_CACHE = "ZIG_GLOBAL_CACHE_DIR"


def zig_command() -> list[str]:
    """The zig of the ziglang wheel. Raises BuildError when the wheel is not installed."""
    wheel = importlib.util.find_spec("ziglang")
    if wheel is None or wheel.origin is None:
        raise BuildError(
            "The cpu target compiles with zig, and the ziglang wheel is not installed.",
            f"{install_hint('build')}, or name a clang with --cxx.",
        )
    return [str(Path(wheel.origin).with_name("zig"))]


def zig_environment(local: Path | None = None) -> dict[str, str]:
    """The environment for zig. It keeps its own libraries, compiled once per target, where ZIG_GLOBAL_CACHE_DIR says,
    else in a cache of this user; `local` gets what it makes of a source, which it would find again only in the same
    directory (None: the same cache).
    """
    cache = os.environ.get(_GLOBAL_CACHE) or str(writable_cache_dir() / "zig")
    return {**os.environ, _GLOBAL_CACHE: cache, "ZIG_LOCAL_CACHE_DIR": cache if local is None else str(local)}


@functools.cache
def compiler_version(cxx: str | None) -> str:
    """One line that names the compiler. Raises BuildError when it cannot be run or is not a clang."""
    if cxx is None:
        command, environment = [*zig_command(), "version"], zig_environment()
    else:
        command, environment = [cxx, "--version"], dict(os.environ)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"The compiler {command[0]} cannot be run: {error}", "Name a clang with --cxx.") from error
    line = done.stdout.strip().splitlines()[0]
    if cxx is not None and "clang" not in done.stdout:
        raise BuildError(f"{cxx} is {line}; the kernels are written for clang.", "Leave --cxx away to use zig.")
    return line
