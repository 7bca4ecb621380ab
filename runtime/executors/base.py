"""The interfaces between the runtime and a target: an engine that runs, and how it comes to run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast

from inflight.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from inflight.engine_format.manifest import EngineManifest
    from inflight.runtime.scheduler.step import StepBatch, StepOutput


class Executor(Protocol):
    """A loaded engine. It does not know requests, scheduling or text.

    `num_blocks` is the size of the KV block pool; block ids run from 0 to num_blocks - 1. An executor keeps no state
    between steps but the cache itself, and what it can tell by the next record to be still right, so a sequence may be
    dropped without telling it.
    """

    manifest: EngineManifest
    num_blocks: int

    def execute(self, batch: StepBatch) -> StepOutput:
        """Run one step. Raises EngineError when the batch breaks a limit; the cache is then unchanged."""
        ...

    def close(self) -> None:
        """Free threads and memory. Calling it twice is harmless."""
        ...


class OverlappingExecutor(Executor, Protocol):
    """An engine whose device computes by itself, so that a step can be submitted before the one before it is read.

    Steps are computed in the order in which they were submitted: a block that a sequence of the first has lost may be
    given to another by the second.
    """

    def submit(self, batch: StepBatch) -> Any:
        """Begin a step, with all that its records hold: they may change from then on, but for those lists that only
        grow. Records that follow a token may have penalties: their histories lack it. Raises as execute()."""
        ...

    def collect(self, submitted: Any) -> StepOutput:
        """Wait for what submit() returned, in that order, each once."""
        ...


def overlaps_steps(executor: Executor) -> OverlappingExecutor | None:
    """It, where a step can be submitted to it before the one before that is collected. One that has the methods and
    cannot do so now says it by `overlaps`."""
    overlaps = hasattr(executor, "submit") and getattr(executor, "overlaps", True)
    return cast(OverlappingExecutor, executor) if overlaps else None


class RevokingExecutor(OverlappingExecutor, Protocol):
    """One that can drop a step which it has begun."""

    def revoke(self) -> None:
        """Forget what was submitted and not collected. Nothing is computed any more when this returns; what was written
        into blocks will be written again."""
        ...


def revokes_steps(executor: Executor) -> RevokingExecutor | None:
    """It, where steps that it overlaps can be dropped."""
    return cast(RevokingExecutor, executor) if overlaps_steps(executor) and hasattr(executor, "revoke") else None


class SettlingExecutor(Executor, Protocol):
    """An executor that goes on to arrange its memory after it was opened. Steps may run meanwhile, more slowly."""

    def settle(self) -> None:
        """Wait until that is done."""
        ...


def settle(executor: Executor) -> None:
    """Wait until steps take no longer than they will."""
    if hasattr(executor, "settle"):
        cast(SettlingExecutor, executor).settle()


class PoolingExecutor(Executor, Protocol):
    """An engine whose hidden states are pooled: one whose manifest has `pooling`. `directory` is where it lies."""

    directory: Path

    def states(self, batch: StepBatch) -> npt.NDArray[np.float32]:
        """Run one step: float32 [logit rows, output_size], those of prompt targets and of the last token, in the order
        of the sequences. Raises EngineError as execute()."""
        ...


class CopyingExecutor(Executor, Protocol):
    """An engine whose KV cache blocks can be copied, between two steps."""

    @property
    def copies_of(self) -> str:
        """What the bits of a copy depend on beside the manifest and the tokens: the code that computes, say."""
        ...

    def copy_out(self, block: int) -> bytes:
        """The contents of a block; as many bytes for each. Raises EngineError when the engine is closed."""
        ...

    def copy_in(self, block: int, data: bytes) -> None:
        """Give a block contents that copy_out() returned, of this or another executor of the same engine. Raises as
        that."""
        ...


def copies_blocks(executor: Executor) -> CopyingExecutor | None:
    """It, where it can copy blocks, of this engine's form."""
    if not hasattr(executor, "copy_out"):
        return None
    copying = cast(CopyingExecutor, executor)
    try:
        copying.copy_out(0)
    except EngineError:
        return None
    return copying


class EngineLoader(ABC):
    """Engines of one target, as the registry knows them (registry.py). Importing its module imports nothing heavy: what
    runs engines is imported by `open`.
    """

    memory_place: ClassVar[Literal["cpu", "gpu"]] = "cpu"
    """Where weights, workspace and KV cache of an open engine are."""

    caution: ClassVar[str | None] = None
    """What a user should know of every engine of this target: said where one is built, loaded or inspected."""

    @abstractmethod
    def open(self, directory: Path, manifest: EngineManifest, num_blocks: int, threads: int) -> Executor:
        """An executor over a verified engine directory. Raises EngineError."""

    def free_memory(self) -> int:
        """Bytes that weights, workspace and KV cache may take together. Raises EngineError where there is no device."""
        from inflight.machine.resources import available_memory

        return available_memory()

    def read_ahead(self, directory: Path, manifest: Mapping[str, Any]) -> None:  # noqa: B027
        """Begin to read what `open` will need, before anything was checked: `manifest` is the JSON as it was found.
        Raises LookupError or TypeError where it is not as it should be. Default hook: does nothing."""

    def problem(self) -> str | None:
        """Why no engine of this target can run on this machine; None: nothing speaks against it."""
        return None
