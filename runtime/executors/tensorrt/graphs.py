"""CUDA graphs of decodes, captured from the stream.

TensorRT-RTX has a way of its own, which waits for kernels that are compiled while serving; nothing is, here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from inflight.runtime.executors.gpu.device import CapturedGraph, Device
from inflight.runtime.executors.tensorrt.api import ExecutionContext

# What is fixed in a graph: the sizes of a decode, and its first slot.
Sizes: TypeAlias = tuple[int, ...]
Enqueue: TypeAlias = Callable[[ExecutionContext], None]
_MAX_GRAPHS = 64


@dataclass(frozen=True)
class _Captured:
    """A graph is valid as long as its context is left as it was: it has one of its own."""

    context: ExecutionContext
    graph: CapturedGraph


class DecodeGraphs:
    """A decode of sizes that were seen before is captured, and launched as one from then on."""

    def __init__(self, device: Device, make_context: Callable[[], ExecutionContext]) -> None:
        self._device = device
        self._make_context = make_context
        self._shared = make_context()
        self._captured: dict[Sizes, _Captured | None] = {}
        self._generation = 0

    def run(self, sizes: Sizes, generation: int, enqueue: Enqueue) -> None:
        """`generation` counts how often memory has moved whose addresses are fixed in graphs."""
        if generation != self._generation:
            self.clear()
            self._generation = generation
        known = self._captured.get(sizes)
        if known is not None:
            known.graph.launch()
        elif sizes in self._captured:
            self._captured[sizes] = self._capture(enqueue)
        else:
            enqueue(self._shared)
            if len(self._captured) < _MAX_GRAPHS:
                self._captured[sizes] = None

    def clear(self) -> None:
        """Nothing may be running."""
        for captured in self._captured.values():
            if captured is not None:
                captured.graph.free()
        self._captured.clear()

    def _capture(self, enqueue: Enqueue) -> _Captured:
        """Runs it once as it is, which settles what depends on the sizes and must not be captured; then captures it."""
        context = self._make_context()
        enqueue(context)
        return _Captured(context, self._device.capture(lambda: enqueue(context)))
