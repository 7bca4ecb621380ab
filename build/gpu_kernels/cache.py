"""Cache of compiled kernels: the key is a digest of everything that decides their bytes."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from inflight.build.gpu_kernels.spec import KernelSpec, Variant
from inflight.build.gpu_kernels.toolchain import triton_version
from inflight.engine_format.gpu_artifact import Artifact
from inflight.errors import BuildError
from inflight.files.cache import user_cache_dir
from inflight.files.scratch import remove_stale, scratch_directory

_SCRATCH = "artifact"
_TARGET = "inflight.build.gpu_kernels"
_MACHINERY = (
    f"{_TARGET}.spec",
    f"{_TARGET}.compiler.triton_compiler",
    f"{_TARGET}.compiler.lowering",
    f"{_TARGET}.compiler.assembler",
    f"{_TARGET}.early_launch",
    f"{_TARGET}.architectures",
    "inflight.engine_format.gpu_artifact",
    "inflight.engine_format.cuda_facts",
)


class ArtifactCache:
    """A directory of artifacts, one JSON file each; `cuda` in the user's cache unless another is given.

    Any process may write at any time: files are complete or absent. A file that cannot be read is ignored.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or user_cache_dir() / "cuda"

    def key(self, spec: KernelSpec, variant: Variant, sm: int) -> str:
        """SHA-256 over the kernel's source and spec, the target's modules it imports, the compile step and versions."""
        facts = {
            "sources": [_source_digest(name) for name in (*modules_of(spec.module), *_MACHINERY)],
            "function": spec.function,
            "arguments": [spec.signature(variant), repr(spec.arguments), repr(spec.grid)],
            "constants": repr(sorted(variant.constants.items())),
            "tuning": repr(spec.tune(sm, variant)),
            "sm": sm,
            "triton": triton_version(),
        }
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def load(self, key: str) -> Artifact | None:
        try:
            return Artifact.model_validate_json(self._path(key).read_bytes())
        except (OSError, ValidationError):
            return None

    def store(self, key: str, artifact: Artifact) -> None:
        """Best effort: where nothing can be written, the kernel is compiled again next time."""
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            remove_stale(self._directory, _SCRATCH)
            with scratch_directory(self._directory, _SCRATCH) as scratch:
                whole = scratch / key
                whole.write_text(artifact.model_dump_json(), encoding="utf-8")
                os.replace(whole, self._path(key))

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.json"


def modules_of(module: str) -> tuple[str, ...]:
    """`module` and the modules of this target that it imports, directly or not, sorted."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in ast.walk(ast.parse(_source(name))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_TARGET + "."):
                waiting.append(node.module or "")
    return tuple(sorted(seen))


@cache
def _source(module: str) -> str:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise BuildError(f"The source of the kernel module {module} cannot be found.", "Reinstall inflight.")
    return Path(found.origin).read_text(encoding="utf-8")


@cache
def _source_digest(module: str) -> str:
    return hashlib.sha256(_source(module).encode()).hexdigest()
