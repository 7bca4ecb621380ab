"""Installs the peers, each into an environment of its own; none of them touches the project's."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path

from compare.engines.base import WORKERS, run_logged
from compare.offline.worker_process import Command, EngineFailed
from inflight.machine.resources import usable_cores
from inflight.progress import console

PINS = Path(__file__).with_name("peers")
# They come in by way of others, need a torch built for the same machine, and stop the import where theirs is another.
UNWANTED = ["torchvision", "torchaudio", "torchcodec"]
LLAMA_TARGETS = ["llama", "llama-quantize", "llama-completion", "llama-bench"]
LLAMA_FLAGS = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_UI=OFF"]
LLAMA_FLAGS += ["-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_APP=OFF"]
# Its AMX kernels crash where GCC 12 compiles them (LDTILECFG of a configuration that is not valid).
NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" if platform.machine() == "x86_64" else ""
LLAMA_FLAGS += [f"-DCMAKE_C_FLAGS={NO_AMX}", f"-DCMAKE_CXX_FLAGS={NO_AMX}"]


def install(names: list[str], peers: Path) -> int:
    """Install these peers below `peers`; one that fails does not stop the others. Returns an exit status."""
    failed = False
    for name in names:
        log = peers / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        try:
            with console.status(f"{name}: installing (minutes; its log is {log})"):
                INSTALLERS[name](name, peers / name, log)
            print(f"{name}: installed in {peers / name}")
        except (EngineFailed, OSError, subprocess.TimeoutExpired) as error:
            failed = True
            print(f"{name}: not installed: {error}", file=sys.stderr)
    return 1 if failed else 0


def _python_peer(name: str, home: Path, log: Path) -> None:
    python = _environment(home)
    run_logged(Command([*_pip(python), "install", "-r", str(PINS / f"{name}.txt")]), log)
    run_logged(Command([*_pip(python), "uninstall", "--yes", *UNWANTED]), log)


def _llama_cpp(name: str, home: Path, log: Path) -> None:
    """From source, for this very machine; cmake and ninja come as wheels where the machine has none."""
    python = _environment(home / "tools")
    pip = _pip(python)
    run_logged(Command([*pip, "install", "cmake", "ninja"]), log)
    run_logged(Command([*pip, "install", "--target", str(home / "modules"), "sentencepiece==0.2.3"]), log)
    pins = str(PINS / f"{name}.txt")
    download = ["download", "--no-deps", "--no-binary", "llama-cpp-python", "-d", str(home), "-r", pins]
    run_logged(Command([*pip, *download]), log)
    archive = next(home.glob("llama_cpp_python-*.tar.gz"))
    source, build = home / "src", home / "build"
    _unpack(archive, source)
    tools = python.parent
    ninja = f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"
    cmake = str(tools / "cmake")
    run_logged(Command([cmake, "-S", str(source), "-B", str(build), "-G", "Ninja", ninja, *LLAMA_FLAGS]), log)
    jobs = str(usable_cores())
    run_logged(Command([cmake, "--build", str(build), "-j", jobs, "--target", *LLAMA_TARGETS]), log)
    _build_worker(source, build / "bin", archive.name.removesuffix(".tar.gz"), log)


def _build_worker(source: Path, binaries: Path, version: str, log: Path) -> None:
    includes = [f"-I{source / 'include'}", f"-I{source / 'ggml' / 'include'}"]
    libraries = [f"-L{binaries}", "-lllama", "-lggml", "-lggml-base", "-Wl,-rpath,$ORIGIN"]
    compiler = ["c++", "-O2", "-std=c++17", f'-DPACKAGE_VERSION="({version})"', *includes]
    worker = [str(WORKERS / "llama_worker.cpp"), "-o", str(binaries / "inflight-bench-worker")]
    run_logged(Command([*compiler, *worker, *libraries]), log)


def _unpack(archive: Path, source: Path) -> None:
    """vendor/llama.cpp of the archive, as `source`."""
    scratch = source.with_name("unpacked")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(source, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(scratch, filter="data")
    next(scratch.glob("*/vendor/llama.cpp")).rename(source)
    shutil.rmtree(scratch)


def _environment(home: Path) -> Path:
    """The Python of a virtual environment at `home`."""
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
    return python


def _pip(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "--disable-pip-version-check"]


INSTALLERS: dict[str, Callable[[str, Path, Path], None]] = {
    "vllm": _python_peer,
    "openvino": _python_peer,
    "llama.cpp": _llama_cpp,
    "transformers": _python_peer,
    "modelopt": _python_peer,
}
# Engines of scripts/compare/cpu; the others are installed by the benchmarks that measure them.
ENGINES = ("vllm", "openvino", "llama.cpp", "transformers")
