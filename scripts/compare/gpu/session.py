"""One run on one card: limits, then every case with torch's own beside it; what fails is noted and passed over."""

from __future__ import annotations

import sys
from pathlib import Path

from compare.gpu.case import Case, ProductCase
from compare.gpu.device import Kernels, uploaded
from compare.gpu.limits import measure_limits, product_seconds
from compare.gpu.results import Result, Run
from compare.gpu.timing import Timer
from compare.gpu.torch_peer import TorchPeer
from compare.offline.worker_process import EngineFailed
from inflight.build.gpu_kernels.architectures import architecture_of
from inflight.runtime.executors.gpu.device import Device


class Session:
    """Limits are measured at once; `workers` processes compile."""

    def __init__(self, gpu: Device, timer: Timer, workers: int, versions: dict[str, str]) -> None:
        self._gpu, self._timer = gpu, timer
        self._kernels = Kernels(gpu, workers)
        self._say("the card's limits")
        operands = ("bf16", "float8", "int8") if architecture_of(gpu.sm).float8_bits else ("bf16", "int8")
        limits = measure_limits(gpu, self._timer, operands)
        self.run = Run(f"{gpu.name}, sm_{gpu.sm}", versions, limits)

    def measure(self, cases: list[Case | ProductCase], torch: TorchPeer | None, out: Path) -> None:
        """Results go to `out` after every case, so that a run that is cut off has not been for nothing."""
        self._say("compiling")
        self._kernels.prepare([call for case in cases if isinstance(case, Case) for call in case.calls])
        for case in cases:
            self._say(f"{case.model}: {case.name}")
            try:
                self.run.results.append(self._result(case, torch))
            except Exception as error:  # the driver, cuBLASLt and nvmath each have their own
                self._fail(case, error)
            self.run.write(out)

    def _result(self, case: Case | ProductCase, torch: TorchPeer | None) -> Result:
        least = self.run.limits.least_seconds(case.moved, case.operations, case.operands)
        seconds = self._kernel(case) if isinstance(case, Case) else self._product(case)
        if case.peer and torch:
            try:
                return Result(case.model, case.name, seconds, least, case.peer.name, torch.seconds(case.peer))
            except EngineFailed as error:
                self._fail(case, error)
        return Result(case.model, case.name, seconds, least)

    def _kernel(self, case: Case) -> float:
        with uploaded(self._gpu, case.arrays()) as addresses:
            return self._timer.seconds(self._kernels.queue(case, addresses))

    def _product(self, case: ProductCase) -> float:
        return product_seconds(self._gpu, self._timer, case.n, case.k, case.rows, case.operands)

    def _fail(self, case: Case | ProductCase, error: Exception) -> None:
        self.run.failures[f"{case.model}, {case.name}"] = str(error).strip().split("\n")[0]

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
