"""Kernels to artifacts: Triton to PTX, its own ptxas to a cubin. No GPU and no driver is needed.

The same kernel, variant, generation and versions of the tools give the same bytes: no line information, no paths, and
no TRITON_* variable of the user's reaches the compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

from inflight.build.gpu_kernels.architectures import architecture_of
from inflight.build.gpu_kernels.cache import ArtifactCache
from inflight.build.gpu_kernels.compile_worker import CompileWorker
from inflight.build.gpu_kernels.spec import KernelSpec, Variant
from inflight.build.gpu_kernels.toolchain import triton_version
from inflight.engine_format.gpu_artifact import Artifact


@dataclass(frozen=True)
class CompileJob:
    """One artifact wanted: a family, its variant, a GPU generation."""

    spec: KernelSpec
    variant: Variant
    sm: int


def compile_kernels(
    jobs: Sequence[CompileJob], *, workers: int = 2, cache: ArtifactCache | None = None
) -> list[Artifact]:
    """The artifacts of `jobs`, in order, compiled side by side in up to `workers` processes.

    `cache` is read first and gets what is compiled; None compiles everything. Raises BuildError when triton is
    not installed, a generation is unknown, a kernel does not compile, or one asks for more shared memory than its GPUs
    have.
    """
    for job in jobs:
        architecture_of(job.sm)
    keys = [cache.key(job.spec, job.variant, job.sm) if cache else "" for job in jobs]
    found = [cache.load(key) if cache else None for key in keys]
    compiled = iter(_compile([job for job, artifact in zip(jobs, found, strict=True) if artifact is None], workers))
    artifacts = []
    for key, artifact in zip(keys, found, strict=True):
        if artifact is None:
            artifact = next(compiled)
            if cache:
                cache.store(key, artifact)
        artifacts.append(artifact)
    return artifacts


def _compile(jobs: Sequence[CompileJob], workers: int) -> list[Artifact]:
    if not jobs:
        return []
    triton_version()
    idle: SimpleQueue[CompileWorker] = SimpleQueue()

    def compile_one(job: CompileJob) -> Artifact:
        worker = idle.get()
        try:
            return worker.compile(job.spec, job.variant, job.sm)
        finally:
            idle.put(worker)

    processes = [CompileWorker() for _ in range(min(workers, len(jobs)))]
    for process in processes:
        idle.put(process)
    threads = ThreadPoolExecutor(len(processes))
    try:
        return list(threads.map(compile_one, jobs))
    finally:
        threads.shutdown(cancel_futures=True)
        for process in processes:
            process.close()
