"""How long work on the GPU takes: a CUDA graph of it, with a cold second-level cache, by the GPU's own clock."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from cuda.core import EventOptions

from inflight.build.targets.cuda.loader import Gpu

WARM_UPS = 3


class Timer:
    """Times on one GPU; holds a buffer of twice its second-level cache, which is written before every run."""

    def __init__(self, gpu: Gpu, repeats: int) -> None:
        self._device, self._stream, self._repeats = gpu.device, gpu.stream, repeats
        self.flush_bytes = 2 * int(gpu.device.properties.l2_cache_size)
        self._flush = gpu.device.allocate(self.flush_bytes, stream=gpu.stream)

    def seconds(self, queue: Callable[[Any], None]) -> float:
        """The median of the runs of what `queue` puts on the stream that it is given."""
        builder = self._device.create_graph_builder().begin_building()
        queue(builder)
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


def torch_seconds(torch: Any, step: Callable[[], Any], repeats: int, flush_bytes: int) -> float:
    """As Timer.seconds, of a function that calls torch."""
    flush = torch.empty(flush_bytes, dtype=torch.int8, device="cuda")
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            step()
    side.synchronize()
    with torch.cuda.graph(graph):
        step()
    times = []
    for _ in range(WARM_UPS + repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times[WARM_UPS:])
