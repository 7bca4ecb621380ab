"""Finds the TensorRT module for a build, and keeps its log with the reasons of refusals."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from inflight.build.gpu_kernels.toolchain import triton_version
from inflight.build.targets.tensorrt.api import Module, PagedPlugins
from inflight.errors import BuildError
from inflight.machine.cuda import compute_capability, require_gpu

FULL_NEEDS = (11, 0)


def find_module(full: bool) -> Module:
    """tensorrt (full) or tensorrt_rtx. Raises BuildError when it is not installed, or too old."""
    name = "tensorrt" if full else "tensorrt_rtx"
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        extra = "tensorrt" if full else "tensorrt-rtx"
        raise BuildError(f"{name} cannot be imported: {error}.", f"pip install 'inflight-llm[{extra}]'") from error
    if full and _version(module) < FULL_NEEDS:
        raise BuildError(
            f"tensorrt is {module.__version__}; packed token counts need 11.0 or later.",
            "pip install --upgrade 'inflight-llm[tensorrt]'",
        )
    return module


def find_plugins() -> PagedPlugins:
    """Paged attention for the GPU of this machine, registered with full TensorRT.

    Raises BuildError when this TensorRT has no ahead-of-time plugins, or triton is not installed; EngineError when no
    GPU can be used.
    """
    triton_version()
    try:
        registered = importlib.import_module("inflight.build.targets.tensorrt.plugins.attention")
    except (ImportError, AttributeError) as error:
        raise BuildError(
            f"This TensorRT has no plugins that are compiled ahead of time, which paged attention is: {error}.",
            "Build without --kv-cache-type paged.",
        ) from error
    require_gpu()
    return PagedPlugins(registered.trtp.op.inflight, int(compute_capability()))


def _version(module: Module) -> tuple[int, ...]:
    return tuple(int(part) for part in str(module.__version__).split(".")[:2])


@cache
def logger(module: Module) -> Any:
    """The process's one logger for this module, which must outlive every builder. `errors` are what it was told."""

    class CollectingLogger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(msg)

    return CollectingLogger()
