"""A back end that computes nothing: it notes what an executor asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from inflight.engine_format.gpu_artifact import Artifact
from tests.oracles.gpu.interpreted_launches import Array, InterpretedBackend, RecordedLaunches


class NotingBackend(InterpretedBackend):
    """`launched`: kernel, arguments and sizes of each launch that ran; `written`: address and contents of each copy to
    the device; `read_bytes`: of each copy from it; `recordings`: how often launches were recorded, `replays` how often
    those ran."""

    def __init__(self, kernels: Mapping[int, list[Artifact]]) -> None:
        super().__init__(kernels)
        self.launched: list[tuple[str, dict[str, int], dict[str, int]]] = []
        self.written: list[tuple[int, bytes]] = []
        self.read_bytes: list[int] = []
        self.recordings = self.replays = 0

    def allocate(self, nbytes: int, *, zeroed: bool = False) -> int:
        """Tokens that nothing computes are 0."""
        return super().allocate(nbytes, zeroed=True)

    def write(self, address: int, array: Array) -> None:
        self.written.append((address, array.tobytes()))
        super().write(address, array)

    def read(self, address: int, array: Array) -> None:
        self.read_bytes.append(array.nbytes)
        super().read(address, array)

    def record(self, queue: Callable[[], None]) -> Any:
        self.recordings += 1
        recorded = super().record(queue)
        return RecordedLaunches([self._replayed, *recorded.launches])

    def interpret(self, kernel: int, arguments: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        self.launched.append((self._kernels[kernel].kernel, dict(arguments), dict(sizes)))

    def take(self) -> tuple[list[tuple[str, dict[str, int], dict[str, int]]], list[tuple[int, bytes]]]:
        """What was launched and written since the last time."""
        taken = self.launched, self.written
        self.launched, self.written = [], []
        return taken

    def _replayed(self) -> None:
        self.replays += 1
