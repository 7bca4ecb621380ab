"""Weights are written in whole huge pages."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from inflight.build.targets.cpu.packing.huge_pages import HUGE_PAGE, HugePageWriter

pytestmark = pytest.mark.unit


def test_a_file_holds_what_was_written_and_zeros_between(rng: np.random.Generator, tmp_path: Path) -> None:
    expected = bytearray()
    with (tmp_path / "file").open("wb") as file:
        writer = HugePageWriter(file)
        for size in rng.choice([0, 1, 4097, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 1, 3 * HUGE_PAGE], 6):
            data = rng.bytes(int(size))
            writer.write(data)
            expected += data
            expected += bytes(int(rng.integers(0, 5000)))
            writer.pad_to(len(expected))
        writer.finish()
    assert (tmp_path / "file").read_bytes() == expected


def test_every_write_but_the_last_is_a_huge_page(rng: np.random.Generator) -> None:
    sizes = []

    class File(io.BytesIO):
        def write(self, data: object, /) -> int:
            sizes.append(len(memoryview(data)))  # type: ignore[arg-type]
            return sizes[-1]

    writer = HugePageWriter(File())
    for _ in range(int(rng.integers(3, 9))):
        writer.write(rng.bytes(int(rng.integers(1, 3 * HUGE_PAGE))))
    writer.finish()
    assert set(sizes[:-1]) <= {HUGE_PAGE}
    assert sizes[-1] <= HUGE_PAGE
