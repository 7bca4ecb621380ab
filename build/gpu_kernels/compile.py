"""Kernels to artifacts: Triton to PTX, its own ptxas to a cubin. No GPU and no driver is needed.

The same kernel, variant, generation and versions of the tools give the same bytes: no line information, no paths, and
no TRITON_* variable of the user's reaches the compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue

from inflight.build.gpu_kernels.architectures import architecture_of
from inflight.build.gpu_kernels.cache import ArtifactCache
from inflight.build.gpu_kernels.compiler.worker import CompileWorker
from inflight.build.gpu_kernels.spec import KernelSpec, Variant
from inflight.build.gpu_kernels.toolchain import triton_version
from inflight.engine_format.gpu_artifact import Artifact
from inflight.machine.resources import usable_cores

# Each takes about 300 MB.
_MOST_WORKERS = 8


@dataclass(frozen=True)
class CompileJob:
    """One artifact wanted: a family, its variant, a GPU generation."""

    spec: KernelSpec
    variant: Variant
    sm: int


def compile_kernels(
    jobs: Sequence[CompileJob], *, workers: int | None = None, cache: ArtifactCache | None = None
) -> list[Artifact]:
    """The artifacts of `jobs`, in order; as `compiling`, which says more."""
    with compiling(jobs, workers=workers, cache=cache) as compilation:
        return compilation.artifacts()


class Compilation:
    """Kernels that are being compiled."""

    def __init__(
        self,
        found: Sequence[Artifact | None],
        started: Sequence[tuple[list[int], Future[list[Artifact]]]],
        store: Callable[[int, Artifact], None],
    ) -> None:
        """`found`: what is there already, by the places of the jobs; `started`: the places of others, and what becomes
        them, which `store` is given."""
        self._found = list(found)
        self._started = started
        self._store = store

    def check(self) -> None:
        """Raises BuildError where a kernel is known not to compile; waits for none."""
        for _, compiled in self._started:
            if compiled.done() and (error := compiled.exception()) is not None:
                raise error

    def artifacts(self) -> list[Artifact]:
        """Those of all jobs, in their order, when they are there. Raises BuildError as soon as one does not compile, or
        asks for more shared memory than its GPUs have."""
        wait([compiled for _, compiled in self._started], return_when=FIRST_EXCEPTION)
        self.check()
        for places, compiled in self._started:
            for place, artifact in zip(places, compiled.result(), strict=True):
                self._found[place] = artifact
                self._store(place, artifact)
        return [artifact for artifact in self._found if artifact is not None]


@contextmanager
def compiling(
    jobs: Sequence[CompileJob], *, workers: int | None = None, cache: ArtifactCache | None = None
) -> Iterator[Compilation]:
    """Compile `jobs` side by side in up to `workers` processes, by default one for each core, while the body runs.

    `cache` is read first and gets what is compiled; None compiles everything. Raises BuildError when triton is
    not installed or a generation is unknown. When the body ends, so do the processes, whatever they are at.
    """
    for job in jobs:
        architecture_of(job.sm)
    keys = [cache.key(job.spec, job.variant, job.sm) if cache else "" for job in jobs]
    artifacts = [cache.load(key) if cache else None for key in keys]
    missing = [place for place, artifact in enumerate(artifacts) if artifact is None]
    with _started(_groups(jobs, missing), workers or min(usable_cores(), _MOST_WORKERS)) as started:

        def store(place: int, artifact: Artifact) -> None:
            if cache:
                cache.store(keys[place], artifact)

        yield Compilation(artifacts, started, store)


@dataclass(frozen=True)
class _Group:
    """Jobs that differ in their generation alone, and may have code in common; `places`: which of all jobs they are."""

    job: CompileJob
    places: list[int]
    sms: list[int]


def _groups(jobs: Sequence[CompileJob], places: Sequence[int]) -> list[_Group]:
    """Those of a kernel and of generations of one major number."""
    groups: dict[str, _Group] = {}
    for place in places:
        job = jobs[place]
        key = f"{job.spec.module} {job.spec.function} {job.variant} {job.sm // 10}"
        group = groups.setdefault(key, _Group(job, [], []))
        group.places.append(place)
        group.sms.append(job.sm)
    return list(groups.values())


@contextmanager
def _started(groups: Sequence[_Group], workers: int) -> Iterator[list[tuple[list[int], Future[list[Artifact]]]]]:
    """The places of each group and what becomes its artifacts."""
    if not groups:
        yield []
        return
    triton_version()
    idle: SimpleQueue[CompileWorker] = SimpleQueue()

    def compile_group(group: _Group) -> list[Artifact]:
        worker = idle.get()
        try:
            return worker.compile(group.job.spec, group.job.variant, group.sms)
        finally:
            idle.put(worker)

    processes = [CompileWorker() for _ in range(min(workers, len(groups)))]
    for process in processes:
        idle.put(process)
    threads = ThreadPoolExecutor(len(processes))
    try:
        yield [(group.places, threads.submit(compile_group, group)) for group in groups]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.end()
        threads.shutdown()
        for process in processes:
            process.close()
