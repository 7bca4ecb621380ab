"""How engines of each target are opened: the project's own targets, and those that other packages register under
`inflight.executors`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from inflight.engine_format.registry import Registry
from inflight.errors import EngineError, InflightError
from inflight.runtime.executors.base import EngineLoader

GROUP = "inflight.executors"


def _cpu() -> EngineLoader:
    from inflight.runtime.executors.cpu.loader import LOADER

    return LOADER


def _cuda() -> EngineLoader:
    from inflight.runtime.executors.cuda.loader import LOADER

    return LOADER


def _reference() -> EngineLoader:
    from inflight.runtime.executors.reference.loader import LOADER

    return LOADER


def _tensorrt() -> EngineLoader:
    from inflight.runtime.executors.tensorrt.loader import LOADER

    return LOADER


def _transformers() -> EngineLoader:
    from inflight.runtime.executors.transformers.loader import LOADER

    return LOADER


def _null() -> EngineLoader:
    from inflight.runtime.executors.null.loader import LOADER

    return LOADER


_OWN: Mapping[str, Callable[[], EngineLoader]] = {
    "cpu": _cpu,
    "cuda": _cuda,
    "reference": _reference,
    "tensorrt": _tensorrt,
    "transformers": _transformers,
    "null": _null,
}
LOADERS: Registry[EngineLoader] = Registry("executor of target", GROUP, EngineLoader, _OWN)  # type: ignore[type-abstract]


def find_loader(target: str) -> EngineLoader:
    """Raises EngineError where no executor of that target is installed, or it cannot be loaded."""
    try:
        return LOADERS.find(target)
    except InflightError as error:
        raise EngineError(error.message, error.hint) from error


def caution_of(target: str) -> str | None:
    """What a user should know of every engine of that target; None: nothing, or it is not installed here."""
    try:
        return find_loader(target).caution
    except EngineError:
        return None
