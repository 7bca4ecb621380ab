"""How long work on the GPU takes: a CUDA graph of it, with a cold second-level cache, by the GPU's own clock."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from cuda.core import EventOptions

from inflight.build.gpu_kernels.loader import Gpu

WARM_UPS = 3


class Timer:
    """Times on one GPU; holds a buffer of twice its second-level cache, which is written before every run."""

    def __init__(self, gpu: Gpu, repeats: int) -> None:
        self._device, self._stream, self._repeats = gpu.device, gpu.stream, repeats
        self.flush_bytes = 2 * int(gpu.device.properties.l2_cache_size)
        self._flush = gpu.device.allocate(self.flush_bytes, stream=gpu.stream)

    def seconds(self, queue: Callable[[Any], None]) -> float:
        """The median of the runs of what `queue` puts on the stream that it is given."""
        queue(self._stream)  # what is loaded at the first launch is not loaded while a graph is being built
        self._stream.sync()
        builder = self._device.create_graph_builder().begin_building()
        queue(builder.stream)
        graph = builder.end_building().complete()
        for _ in range(WARM_UPS):
            graph.launch(self._stream)
        times = [self._once(graph) for _ in range(self._repeats)]
        graph.close()
        return statistics.median(times)

    def _once(self, graph: Any) -> float:
        timed = EventOptions(timing_enabled=True)
        self._flush.fill(0, stream=self._stream)
        start = self._stream.record(options=timed)
        graph.launch(self._stream)
        end = self._stream.record(options=timed)
        end.sync()
        return float(end - start) / 1e3
