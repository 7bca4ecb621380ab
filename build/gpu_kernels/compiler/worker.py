"""A process that compiles kernels, one at a time, until its input ends.

A fresh interpreter, and not a fork or spawn of this one: triton decides when a kernel is imported whether it is
compiled or interpreted, and it reads its settings from the environment.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence

from inflight.build.gpu_kernels.spec import KernelSpec, Variant
from inflight.engine_format.gpu_artifact import Artifact
from inflight.errors import BuildError

_COMPILER_VARIABLES = ("TRITON_", "PTXAS_", "MLIR_", "LLVM_", "NVPTX_")


class CompileWorker:
    """The parent's side of a worker. Used by one thread at a time."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_COMPILER_VARIABLES)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )

    def compile(self, spec: KernelSpec, variant: Variant, sms: Sequence[int]) -> list[Artifact]:
        """One for each of `sms`. Raises BuildError with the compiler's reason, or when the process died."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None and answers is not None
        try:
            pickle.dump((spec, variant, sms), requests)
            requests.flush()
            answer = pickle.load(answers)
        except (EOFError, BrokenPipeError) as error:
            status = self._process.wait()
            raise BuildError(f"The compiler of {spec.function} for sm_{sms[0]} ended with status {status}.") from error
        if isinstance(answer, BuildError):
            raise answer
        assert isinstance(answer, list)
        return answer

    def end(self) -> None:
        """Ask the process to end: what it is compiling is lost, and `compile` raises."""
        self._process.terminate()

    def close(self) -> None:
        """End the process and wait for it. Nobody may be in `compile`."""
        self.end()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def serve() -> None:
    """Answer each pickled (spec, variant, sms) of standard input with a pickled list of artifacts or a BuildError."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            spec, variant, sms = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(_compile(spec, variant, sms), answers)
        answers.flush()


def _compile(spec: KernelSpec, variant: Variant, sms: Sequence[int]) -> list[Artifact] | BuildError:
    from inflight.build.gpu_kernels.compiler.triton_compiler import compile_kernel

    try:
        return compile_kernel(spec, variant, sms)
    except BuildError as error:
        return error


if __name__ == "__main__":
    serve()
