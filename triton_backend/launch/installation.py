"""Finding a Triton Inference Server that can run Python models in this Python."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inflight.files import atomic_directory
from inflight.files.cache import cached_path

_WHEEL = "nvidia-pytriton"
_STUB = "triton_python_backend_stub"
_MINIMUM_GLIBC = (2, 35)
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_LOADER_PATHS = ("/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/local/lib", "/usr/lib")


@dataclass(frozen=True, slots=True)
class TritonInstallation:
    """`server` is the binary, `backends` the folder that holds python/, `libraries` go before LD_LIBRARY_PATH."""

    server: Path
    backends: Path
    libraries: tuple[Path, ...]
    origin: str

    def environment(self) -> dict[str, str]:
        """The environment of the server process.

        The stub embeds an interpreter that finds its prefix, and with it site-packages and .pth files, from the first
        `python3` on PATH: that must be the running interpreter.
        """
        environment = dict(os.environ)
        environment.pop("PYTHONHOME", None)
        interpreter = str(Path(sys.executable).parent)
        environment["PATH"] = os.pathsep.join([interpreter, environment.get("PATH", os.defpath)])
        libraries = [str(path) for path in self.libraries]
        if inherited := environment.get("LD_LIBRARY_PATH"):
            libraries.append(inherited)
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
        return environment


def find_triton() -> TritonInstallation | str:
    """The server on PATH, else the one inside the nvidia-pytriton wheel; or the reason why neither can run here."""
    if reason := _unsuitable_machine():
        return reason
    on_path = shutil.which("tritonserver")
    if on_path is not None:
        return _installed_server(Path(on_path).resolve())
    return _server_of_wheel()


def _unsuitable_machine() -> str | None:
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        return f"Triton runs on x86-64 Linux; this is {system} on {machine}."
    _, version = platform.libc_ver()
    glibc = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if glibc < _MINIMUM_GLIBC:
        has = version or "another libc"
        return f"Triton needs glibc 2.35 (Debian 12, Ubuntu 22.04 or later); this system has {has}."
    return None


def _installed_server(server: Path) -> TritonInstallation | str:
    backends = server.parent.parent / "backends"
    stub = backends / "python" / _STUB
    if not stub.is_file():
        return f"{server} has no Python backend: {stub} is missing."
    wanted = _python_of_stub(stub)
    if wanted not in (None, _PYTHON):
        return f"The Python backend of {server} needs Python {wanted}, and this is {_PYTHON}: install inflight there."
    return _with_libpython(server, backends, (), "PATH")


def _server_of_wheel() -> TritonInstallation | str:
    try:
        wheel = importlib.metadata.distribution(_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return f"There is no tritonserver on PATH and the package {_WHEEL} is not installed (pip install {_WHEEL})."
    root = Path(str(wheel.locate_file("pytriton/tritonserver")))
    stub = root / "python_backend_stubs" / _PYTHON / _STUB
    if not stub.is_file():
        return f"{_WHEEL} {wheel.version} has no Python backend for Python {_PYTHON}."
    backends = _assemble(root / "backends" / "python", stub, wheel.version)
    libraries = Path(str(wheel.locate_file("nvidia_pytriton.libs")))
    return _with_libpython(root / "bin" / "tritonserver", backends, (libraries,), f"{_WHEEL} {wheel.version}")


def _assemble(backend: Path, stub: Path, version: str) -> Path:
    """A backend folder as Triton expects it: the wheel keeps the stub of each Python elsewhere."""
    target = cached_path("triton", f"{version}-python{_PYTHON}")
    if not (target / "python" / _STUB).is_file():
        with atomic_directory(target, overwrite=True) as scratch:
            shutil.copytree(backend, scratch / "python", ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy2(stub, scratch / "python" / _STUB)
    return target


def _python_of_stub(stub: Path) -> str | None:
    found = re.search(rb"libpython(3\.\d+)\.so", stub.read_bytes())
    return None if found is None else found[1].decode()


def _with_libpython(server: Path, backends: Path, libraries: tuple[Path, ...], origin: str) -> TritonInstallation | str:
    """The stub is linked to libpython of its own minor version, which not every Python brings."""
    name = f"libpython{_PYTHON}.so.1.0"
    stub = (backends / "python" / _STUB).read_bytes()
    if name.encode() not in stub:
        return TritonInstallation(server, backends, libraries, origin)
    for folder in _library_folders():
        if (folder / name).is_file():
            return TritonInstallation(server, backends, (*libraries, folder), origin)
    return (
        f"Triton's Python backend needs {name}, and this Python ({sys.executable}) brings none. "
        f"On Debian and Ubuntu: apt-get install libpython{_PYTHON}."
    )


def _library_folders() -> Iterator[Path]:
    """This interpreter's own first: it matches the standard library that will be imported."""
    if configured := sysconfig.get_config_var("LIBDIR"):
        yield Path(configured)
    yield Path(sys.base_prefix) / "lib"
    inherited = os.environ.get("LD_LIBRARY_PATH", "")
    yield from (Path(entry) for entry in inherited.split(os.pathsep) if entry)
    yield from (Path(entry) for entry in _LOADER_PATHS)
