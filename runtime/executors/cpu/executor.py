"""The CPU target's executor: a compiled library, mapped weights, and a KV pool, driven over ctypes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET
from msgspec.structs import asdict

from inflight.engine_format.cpu_abi import LIMIT, OK, STATUS, Build, open_library
from inflight.engine_format.cpu_facts import CpuFacts
from inflight.engine_format.manifest import EngineManifest
from inflight.errors import EngineError
from inflight.runtime.executors.batch_check import check_batch
from inflight.runtime.executors.cpu.buffers import StepBuffers
from inflight.runtime.executors.cpu.features import choose_variant
from inflight.runtime.executors.cpu.memory import Region, map_file, map_zeroed
from inflight.runtime.loading.rebuild import rebuild_hint
from inflight.runtime.loading.target_facts import read_target_facts
from inflight.runtime.scheduler.step import StepBatch, StepOutput

# Not imported where only tokens are needed: importing them would double the time to open an engine.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from inflight.runtime.executors.cpu.cache_blocks import CacheBlocks
    from inflight.runtime.executors.cpu.profile import CpuProfiler, OperatorProfile


@dataclass(slots=True)
class SubmittedStep:
    """A step until it is collected. `profiler`: that which was running when it was submitted."""

    batch: StepBatch
    buffers: StepBuffers
    profiler: CpuProfiler | None


class CpuExecutor:
    """One rank of a verified engine directory of target `cpu`; see RevokingExecutor.

    Behind a step that is collected the next one begins on all threads but the caller's, which joins them when it
    collects that: with one thread, steps do not overlap, nor do those of a mixture of experts.

    `num_blocks` KV blocks are reserved and `threads` threads started. Raises EngineError when no variant fits this CPU,
    the library cannot be loaded, or the system refuses memory or threads.
    """

    def __init__(self, directory: Path, manifest: EngineManifest, num_blocks: int, threads: int) -> None:
        self.directory = directory
        facts = read_target_facts(manifest, CpuFacts, directory)
        self.manifest = manifest
        self.num_blocks = num_blocks
        self.threads = threads
        self.variant = choose_variant(facts.variants, manifest, directory)
        self._engine: int | None = None
        self._regions: list[Region] = []
        self._profiler: CpuProfiler | None = None
        self._blocks: CacheBlocks | None = None
        # Experts are shared out in advance (kernels/pool.h): the caller's thread would wait for a layer of them.
        self.overlaps = threads > 1 and manifest.model.active_parameters is UNSET
        self._under_way: list[SubmittedStep] = []
        try:
            self._open(directory, directory / facts.weights_file)
        except BaseException:
            self.close()
            raise

    def execute(self, batch: StepBatch) -> StepOutput:
        self.revoke()
        return self.collect(self.submit(batch))

    def submit(self, batch: StepBatch) -> SubmittedStep:
        """See OverlappingExecutor."""
        return self._submit(batch, None)

    def collect(self, submitted: SubmittedStep) -> StepOutput:
        """See OverlappingExecutor."""
        self._collect(submitted)
        return submitted.buffers.read(submitted.batch)

    def revoke(self) -> None:
        """See RevokingExecutor."""
        if self._under_way and self._engine is not None:
            self._library.inflight_abandon(self._engine)
        self._under_way = []

    def execute_with_logits(self, batch: StepBatch) -> tuple[StepOutput, npt.NDArray[np.float32]]:
        """As execute(), and the logits [logit rows, vocab_size] before any adjustment."""
        import numpy as np

        rows = sum(sequence.num_logit_rows for sequence in batch.sequences)
        logits = np.empty((rows, self.manifest.model.vocab_size), np.float32)
        self.revoke()
        submitted = self._submit(batch, logits.ctypes.data)
        return self.collect(submitted), logits

    def states(self, batch: StepBatch) -> npt.NDArray[np.float32]:
        """See PoolingExecutor."""
        import numpy as np

        rows = sum(sequence.num_logit_rows for sequence in batch.sequences)
        states = np.empty((rows, self.manifest.output_size), np.float32)
        self.revoke()
        self._collect(self._submit(batch, states.ctypes.data))
        return states

    def start_profile(self) -> None:
        """Measure the time of every operator from the next step on. Restarts a running profile."""
        if self._engine is None:
            raise EngineError("The engine is closed.")
        from inflight.runtime.executors.cpu.profile import CpuProfiler

        self._profiler = CpuProfiler(self._library)
        self._library.inflight_profile(self._engine, self._profiler.nanoseconds.ctypes.data)

    def profile(self) -> list[OperatorProfile]:
        """End the profile; return every operator, in the order of a step, summed over the steps since start_profile().

        Empty when none was started. cpu_profile.sum_by_kind() puts the layers together.
        """
        profiler, self._profiler = self._profiler, None
        if profiler is None or self._engine is None:
            return []
        self._library.inflight_profile(self._engine, None)
        for submitted in self._under_way:
            if submitted.profiler is profiler:
                profiler.add_step(submitted.batch)
        return profiler.operators()

    @property
    def copies_of(self) -> str:
        """See CopyingExecutor."""
        return self.variant.digest

    def copy_out(self, block: int) -> bytes:
        """See CopyingExecutor."""
        return self._cache_blocks().copy_out(block)

    def copy_in(self, block: int, data: bytes) -> None:
        """See CopyingExecutor."""
        self._cache_blocks().copy_in(block, data)

    def settle(self) -> None:
        for region in self._regions:
            region.settle()

    def close(self) -> None:
        if self._engine is not None:
            self._library.inflight_close(self._engine)
            self._engine = None
        while self._regions:
            self._regions.pop().close()

    def _open(self, directory: Path, weights_path: Path) -> None:
        manifest = self.manifest
        library_path = directory / self.variant.file
        try:
            self._library = open_library(library_path)
        except OSError as error:
            raise EngineError(f"The system cannot load {library_path}: {error}.") from error
        self._check_build(directory, weights_path)
        weights = self._keep(map_file(weights_path))
        self._cache = cache = self._keep(map_zeroed(self.num_blocks * manifest.kv_cache.bytes_per_block, "KV cache"))
        workspace = self._keep(map_zeroed(manifest.memory.workspace_bytes, "workspace"))
        self._buffers = [StepBuffers(manifest) for _ in range(2 if self.overlaps else 1)]
        self._engine = self._library.inflight_open(
            weights.address, weights.file, cache.address, self.num_blocks, workspace.address, self.threads
        )
        if self._engine is None:
            raise EngineError(f"The system refused {self.threads} threads.", "Pass a smaller --threads.")
        weights.populate(manifest.memory.lookup_bytes)  # last: other mappings would wait for it

    def _check_build(self, directory: Path, weights_path: Path) -> None:
        """A manifest that asks for less memory than the library touches would end the process, or worse; one that
        allows more than was compiled would let the scheduler make steps that the library refuses."""
        build = Build()
        self._library.inflight_get_build(build)
        manifest = self.manifest
        pairs = {
            f"the size of {weights_path.name}": (weights_path.stat().st_size, build.weights_bytes),
            "memory.workspace_bytes": (manifest.memory.workspace_bytes, build.workspace_bytes),
            "kv_cache.bytes_per_block": (manifest.kv_cache.bytes_per_block, build.bytes_per_block),
            "kv_cache.tokens_per_block": (manifest.kv_cache.tokens_per_block, build.tokens_per_block),
            "model.vocab_size": (manifest.model.vocab_size, build.vocab_size),
            "the size of its output": (manifest.output_size, build.output_size),
            **{f"limits.{name}": (told, getattr(build, name)) for name, told in asdict(manifest.limits).items()},
        }
        wrong = [
            f"{name} is {told:,} and not {compiled:,}" for name, (told, compiled) in pairs.items() if told != compiled
        ]
        if (digest := build.digest.decode()) != self.variant.digest:
            wrong.append(f"the digest of its code is {self.variant.digest} and not {digest}")
        if wrong:
            raise EngineError(
                f"{directory / self.variant.file} was compiled for another engine: {', '.join(wrong)}.",
                rebuild_hint(manifest.recipe, manifest.target, directory),
            )

    def _cache_blocks(self) -> CacheBlocks:
        if self._engine is None:
            raise EngineError("The engine is closed.")
        if self._blocks is None:
            from inflight.runtime.executors.cpu.cache_blocks import CacheBlocks

            self._blocks = CacheBlocks(self._cache.address, self.num_blocks, self.manifest)
        return self._blocks

    def _keep(self, region: Region) -> Region:
        self._regions.append(region)
        return region

    def _submit(self, batch: StepBatch, logits: int | None) -> SubmittedStep:
        """`logits` is the address that they are written to."""
        if self._engine is None:
            raise EngineError("The engine is closed.")
        before = self._under_way[-1].buffers if self._under_way else None
        buffers = self._buffers[0] if before is not self._buffers[0] else self._buffers[1]
        try:
            buffers.fill(batch, before)
        except (ValueError, IndexError, OverflowError):  # more, or larger numbers, than the arrays have
            status = LIMIT
        else:
            buffers.output.logits = logits
            status = self._library.inflight_submit(self._engine, *buffers.addresses)
        if status == LIMIT:
            check_batch(batch, self.manifest, self.num_blocks)  # raises, and names what is wrong
        _check_status(status)
        submitted = SubmittedStep(batch, buffers, self._profiler)
        self._under_way.append(submitted)
        return submitted

    def _collect(self, submitted: SubmittedStep) -> None:
        if self._engine is None:
            raise EngineError("The engine is closed.")
        status = self._library.inflight_collect(self._engine)
        self._under_way.pop(0)
        _check_status(status)
        if self._profiler is not None and submitted.profiler is self._profiler:
            self._profiler.add_step(submitted.batch)


def _check_status(status: int) -> None:
    if status != OK:
        raise EngineError(f"The engine refused a step: {STATUS.get(status, f'status {status}')}.")
