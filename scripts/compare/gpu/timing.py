"""How long work on the GPU takes: a CUDA graph of it, with a cold second-level cache, by the GPU's own clock."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from inflight.machine.cuda import call
from inflight.runtime.executors.gpu.device import CapturedGraph, Device

WARM_UPS = 3


class Timer:
    """Times on one GPU; holds a buffer of twice its second-level cache, which is written before every run."""

    def __init__(self, gpu: Device, repeats: int) -> None:
        self._gpu, self._repeats = gpu, repeats
        self.flush_bytes = 2 * gpu.attribute("cudaDevAttrL2CacheSize")
        self._flush = gpu.allocate(self.flush_bytes)
        self._start, self._end = call("cudaEventCreate"), call("cudaEventCreate")

    def seconds(self, queue: Callable[[], None]) -> float:
        """The median of the runs of what `queue` puts on the GPU's stream."""
        queue()  # what is loaded at the first launch is not loaded while a graph is being captured
        self._gpu.wait()
        graph = self._gpu.capture(queue)
        for _ in range(WARM_UPS):
            graph.launch()
        times = [self._once(graph) for _ in range(self._repeats)]
        graph.free()
        return statistics.median(times)

    def _once(self, graph: CapturedGraph) -> float:
        self._flush.clear()
        call("cudaEventRecord", self._start, self._gpu.stream)
        graph.launch()
        call("cudaEventRecord", self._end, self._gpu.stream)
        call("cudaEventSynchronize", self._end)
        return float(call("cudaEventElapsedTime", self._start, self._end)) / 1e3
