"""torch's own kernels on the GPU: torch_kernels_worker.py REPEATS FLUSH_BYTES.

Says {"version"}, then answers each line {"work", "arguments"} (a function of torch_kernels.py) with {"seconds"} or
{"error"}. Seconds are the median of a CUDA graph's runs, each behind a write of FLUSH_BYTES, by the GPU's own clock.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch_kernels

WARM_UPS = 3


def main() -> None:
    repeats, flush_bytes = int(sys.argv[1]), int(sys.argv[2])
    flush = torch.empty(flush_bytes, dtype=torch.int8, device="cuda")
    answer({"version": f"torch {torch.__version__}"})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            with torch.inference_mode():
                step = getattr(torch_kernels, request["work"])(torch, **request["arguments"])
                answer({"seconds": seconds(step, repeats, flush)})
        except Exception as error:  # the compiler, the driver and torch each have their own
            answer({"error": str(error).strip().split("\n")[0] or type(error).__name__})
        step = None
        torch.cuda.empty_cache()


def seconds(step: Callable[[], Any], repeats: int, flush: torch.Tensor) -> float:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            step()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times: list[float] = []
    for _ in range(WARM_UPS + repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times[WARM_UPS:])


def answer(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


main()
