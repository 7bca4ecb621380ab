"""The files of a cuda engine: its compiled kernels, and its weights into the device's memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from inflight.engine_format.gpu_artifact import Artifact
from inflight.runtime.executors.cuda.backend import Backend

_CHUNK_BYTES = 1 << 26


def read_kernels(path: Path) -> dict[int, list[Artifact]]:
    """Compiled kernels by the GPU generation, in the order in which launches name them."""
    stored = msgspec.json.decode(path.read_bytes(), type=dict[int, list[dict[str, object]]])
    return {sm: [_artifact(each) for each in found] for sm, found in stored.items()}


def write_weights(backend: Backend, address: int, path: Path) -> None:
    """The file in pieces: one is read from it while another is copied to the device."""
    data = np.memmap(path, np.uint8, "r")
    size = min(_CHUNK_BYTES, len(data))
    pieces = [backend.host(size) for _ in range(2)]
    marks: list[Any] = [None, None]
    for number, start in enumerate(range(0, len(data), size)):
        place, part = number % 2, data[start : start + size]
        if marks[place] is not None:
            backend.wait_for(marks[place])
        pieces[place][: len(part)] = part
        backend.write(address + start, pieces[place][: len(part)])
        marks[place] = backend.mark()
    for mark in marks:
        if mark is not None:
            backend.wait_for(mark)


def _artifact(record: dict[str, object]) -> Artifact:
    """Read as JSON, in which the code is base64."""
    return Artifact.model_validate_json(msgspec.json.encode(record))
