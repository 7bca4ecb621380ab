"""One run on one card: limits, then every case with torch's own beside it; what fails is noted and passed over."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bench.gpu.case import Case, Peer, ProductCase
from bench.gpu.device import Kernels, uploaded
from bench.gpu.limits import measure_limits, product_seconds
from bench.gpu.results import Limits, Result, Run
from bench.gpu.timing import Timer, torch_seconds
from inflight.build.targets.cuda.architectures import architecture_of


class Session:
    """`torch` is the module, or None."""

    def __init__(self, device: Any, sm: int, torch: Any, repeats: int, workers: int, versions: dict[str, str]) -> None:
        self._device, self._torch, self._repeats = device, torch, repeats
        self._timer = Timer(device, repeats)
        self._kernels = Kernels(sm, workers)
        self._say("the card's limits")
        self.run = Run(f"{device.name}, sm_{sm}", versions, Limits(1.0, {}))
        operands = ("bf16", "float8", "int8") if architecture_of(sm).fp8 else ("bf16", "int8")
        self.run.limits = measure_limits(device, self._timer, operands)

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
        with uploaded(self._device, self._timer.stream, case.arrays()) as addresses:
            return self._timer.seconds(self._kernels.queue(case, addresses))

    def _product(self, case: ProductCase) -> float:
        return product_seconds(self._device, self._timer, case.n, case.k, case.rows, case.operands)

    def _peer(self, peer: Peer) -> float:
        flush = 2 * self._device.properties.l2_cache_size
        seconds = torch_seconds(self._torch, peer(self._torch), self._repeats, flush)
        self._torch.cuda.empty_cache()
        return seconds

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
