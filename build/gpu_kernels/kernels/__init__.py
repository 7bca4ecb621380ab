"""The Triton kernels, one or one family a file; each file's SPECS describe its kernels to the compiler."""

from __future__ import annotations

import importlib
import pkgutil

from inflight.build.gpu_kernels.spec import KernelSpec


def all_specs() -> tuple[KernelSpec, ...]:
    """The specs of every module of this package. Imports triton."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return tuple(spec for module in modules for spec in getattr(module, "SPECS", ()))
