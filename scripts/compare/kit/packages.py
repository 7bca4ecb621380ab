"""The packages of a kit for several Pythons, each file once: wheels of other versions of Python have most in common."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from inflight.errors import BuildError

HERE = "here"
ROOT = Path(__file__).resolve().parents[3]
ARCHIVE, INDEX = "packages.zip", "packages.json"
# In the index, in place of a Python: engines and kernels, which all of them read.
KIT = "kit"
# What opens an engine of the target and steps it; cuda-bindings has the version that pyproject.toml names.
NEEDED = (
    *("numpy", "msgspec", "pydantic", "pydantic_core", "typing_extensions", "annotated-types", "typing-inspection"),
    *("cuda-bindings", "cuda-pathfinder"),
)
# What cuda-bindings asks for.
_PATHFINDER = "cuda-pathfinder>=1.4.2,<2"
# The version that is installed here has no wheel for Python 3.13; what the parts run is told no difference.
_LATER_NUMPY = "numpy>=2.1,<3"
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# What nothing here imports: tests, sources, NumPy's copies of its loops for its own tests, and of CUDA's libraries all
# but the driver and the runtime.
_LEFT_OUT = re.compile(
    r"(^|/)(tests?|__pycache__|include|f2py|sboms|bin)/|\.(pyi|pyx|pxd|a|h)$|\.\./|^numpy/_?core/_simd\."
    r"|^cuda/bindings/(\w+/)*(cy)?(cudla|cufile|nvfatbin|nvjitlink|nvml|nvrtc|nvvm)\."
)

Files = Mapping[str, bytes]


class PackageStore:
    """Files by their digest in one archive, and for each Python, and for KIT, which of them lie where."""

    def __init__(self, directory: Path) -> None:
        self._index: dict[str, dict[str, str]] = {}
        self._path = directory / INDEX
        self._stored: set[str] = set()
        self._archive = zipfile.ZipFile(directory / ARCHIVE, "w", zipfile.ZIP_LZMA)

    def add(self, tag: str, name: str, data: bytes) -> None:
        """A file at `name` for the Python of `tag` ("cp312"), or for KIT."""
        digest = hashlib.sha256(data).hexdigest()
        self._index.setdefault(tag, {})[name] = digest
        if digest not in self._stored:
            self._stored.add(digest)
            self._archive.writestr(zipfile.ZipInfo(digest, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_LZMA)

    def close(self) -> None:
        self._archive.close()
        self._path.write_text(json.dumps(self._index, sort_keys=True))


def tag_of(python: str) -> str:
    """ "3.12", "312" and "cp312" are cp312; "here" is this Python. Raises BuildError for another form."""
    if python == HERE:
        return f"cp{sys.version_info[0]}{sys.version_info[1]}"
    found = re.fullmatch(r"(?:cp)?3\.?(\d\d)", python)
    if not found:
        raise BuildError(f"--pythons {python}: a version is 3.12 or cp312, or 'here' for this Python's own packages.")
    return f"cp3{found[1]}"


def files_of(python: str, scratch: Path) -> Iterator[tuple[str, bytes]]:
    """(place, contents) of all that a Python needs beside inflight: from the registry, or for "here" from this
    environment, where what is not installed is left out. Raises BuildError when pip finds no wheel."""
    if python == HERE:
        yield from _installed()
        return
    folder = scratch / tag_of(python)
    _download(python, folder)
    for wheel in sorted(folder.glob("*.whl")):
        yield from files_in(wheel)


def files_in(wheel: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not name.endswith("/") and not _LEFT_OUT.search(name):
                yield name, archive.read(name)


def inflight_wheel(root: Path, scratch: Path) -> Path:
    """Built of this checkout, without the network. Raises BuildError with setuptools' words."""
    command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(scratch), str(root)]
    _run([sys.executable, "-m", *command])
    (wheel,) = scratch.glob("inflight_llm-*.whl")
    return wheel


def _installed() -> Iterator[tuple[str, bytes]]:
    for name in NEEDED:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed here: the kit is without it", file=sys.stderr)
            continue
        for file in distribution.files or ():
            path = Path(str(file.locate()))
            if not _LEFT_OUT.search(str(file)) and path.is_file():
                yield str(file), path.read_bytes()


def _download(python: str, folder: Path) -> None:
    """Those versions that are installed here, but for NumPy from Python 3.13 on: they were tested together."""
    version = f"3.{tag_of(python).removeprefix('cp3')}"
    platforms = [f"--platform={name}" for name in _PLATFORMS]
    pins = [_pin(name, version) for name in NEEDED]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={version}"]
    _run([sys.executable, "-m", "pip", "download", *options, *platforms, f"--dest={folder}", *pins])


def _pin(name: str, version: str) -> str:
    if name == "cuda-pathfinder":
        return _PATHFINDER
    if name == "numpy" and int(version.removeprefix("3.")) >= 13:
        return _LATER_NUMPY
    if name == "cuda-bindings":
        (found,) = set(re.findall(r'"cuda-bindings==([\d.]+)"', (ROOT / "pyproject.toml").read_text()))
        return f"{name}=={found}"
    return f"{name}=={importlib.metadata.version(name)}"


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"{' '.join(command[:4])} failed: {result.stderr.strip()[-2000:]}")
