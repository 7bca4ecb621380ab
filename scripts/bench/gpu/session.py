"""One run on one card: limits, then every case with torch's own beside it; what fails is noted and passed over."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bench.gpu.case import Case, Peer, ProductCase
from bench.gpu.device import Kernels, uploaded
from bench.gpu.limits import measure_limits, product_seconds
from bench.gpu.results import Result, Run
from bench.gpu.timing import Timer, torch_seconds
from inflight.build.targets.cuda.architectures import architecture_of
from inflight.build.targets.cuda.loader import Gpu


class Session:
    """`torch` is the module, or None."""

    def __init__(self, gpu: Gpu, torch: Any, repeats: int, workers: int, versions: dict[str, str]) -> None:
        self._gpu, self._torch, self._repeats = gpu, torch, repeats
        self._timer = Timer(gpu, repeats)
        self._kernels = Kernels(gpu, workers)
        self._say("the card's limits")
        operands = ("bf16", "float8", "int8") if architecture_of(gpu.sm).fp8 else ("bf16", "int8")
        limits = measure_limits(gpu, self._timer, operands)
        self.run = Run(f"{gpu.device.name}, sm_{gpu.sm}", versions, limits)

    def measure(self, cases: list[Case | ProductCase], out: Path) -> None:
        """Results go to `out` after every case, so that a run that is cut off has not been for nothing."""
        self._say("compiling")
        self._kernels.prepare([call for case in cases if isinstance(case, Case) for call in case.calls])
        for case in cases:
            self._say(f"{case.model}: {case.name}")
            try:
                self.run.results.append(self._result(case))
            except Exception as error:  # a driver, cuBLASLt and torch each have their own
                self.run.failures[f"{case.model}, {case.name}"] = str(error).splitlines()[0]
            self.run.write(out)

    def _result(self, case: Case | ProductCase) -> Result:
        least = self.run.limits.least_seconds(case.moved, case.operations, case.operands)
        seconds = self._kernel(case) if isinstance(case, Case) else self._product(case)
        peer = self._peer(case.peer) if case.peer and self._torch else None
        return Result(case.model, case.name, seconds, least, case.peer_name, peer)

    def _kernel(self, case: Case) -> float:
        with uploaded(self._gpu, case.arrays()) as addresses:
            return self._timer.seconds(self._kernels.queue(case, addresses))

    def _product(self, case: ProductCase) -> float:
        return product_seconds(self._gpu, self._timer, case.n, case.k, case.rows, case.operands)

    def _peer(self, peer: Peer) -> float:
        seconds = torch_seconds(self._torch, peer(self._torch), self._repeats, self._timer.flush_bytes)
        self._torch.cuda.empty_cache()
        return seconds

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
