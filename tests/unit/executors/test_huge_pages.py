"""A file that the system keeps in small pages is brought into huge ones, while it is read."""

from __future__ import annotations

import ctypes
import os
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest

from inflight.runtime.executors.cpu import huge_pages, memory
from inflight.runtime.executors.cpu.huge_pages import HUGE_PAGE, huge_bytes
from inflight.runtime.executors.cpu.memory import Region, map_file

pytestmark = pytest.mark.unit

SIZE = 4 * HUGE_PAGE + 12_345  # the last piece is not whole


@pytest.fixture
def file(rng: np.random.Generator, tmp_path: Path) -> Path:
    """Written page by page, which leaves small pages."""
    path, data = tmp_path / "weights", rng.bytes(SIZE)
    with path.open("wb", buffering=0) as opened:
        for at in range(0, SIZE, 4096):
            opened.write(data[at : at + 4096])
    return path


def in_huge_pages(region: Region) -> int:
    try:
        return huge_bytes(region.address, SIZE)
    except OSError as error:
        pytest.skip(f"this system does not say which pages are huge: {error}")


def skip_where_files_have_no_huge_pages(file: Path) -> None:
    """Asked of the system by reading the file anew, all at once."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    region = map_file(file)
    region.populate()
    region.settle()
    found = in_huge_pages(region)
    region.close()
    if found < 4 * HUGE_PAGE:
        pytest.skip("this system keeps no files in huge pages, or has none that is free")


def test_small_pages_become_huge_ones_while_they_are_read(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_HUGE_PAGES_AFTER_S", 0.0)
    monkeypatch.setattr(huge_pages, "_GRACE_S", 1e6)  # whatever else the machine does meanwhile
    data, region = file.read_bytes(), map_file(file)
    region.populate()
    wrong: list[int] = []

    mapped, checksum = (ctypes.c_ubyte * SIZE).from_address(region.address), zlib.crc32(data)

    def read() -> None:
        while region._populating is not None and region._populating.is_alive():
            wrong.extend([] if zlib.crc32(mapped) == checksum else [1])

    reader = threading.Thread(target=read)
    reader.start()
    region.settle()
    reader.join()
    assert not wrong and ctypes.string_at(region.address, SIZE) == data
    found = in_huge_pages(region)
    region.close()
    if found < 4 * HUGE_PAGE:
        (tmp_path / "other").write_bytes(data)
        skip_where_files_have_no_huge_pages(tmp_path / "other")
    assert found == 4 * HUGE_PAGE


def test_what_another_mapping_holds_stays_as_it_is(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_HUGE_PAGES_AFTER_S", 0.0)
    holder = map_file(file)
    data = ctypes.string_at(holder.address, SIZE)  # which maps all of it
    region = map_file(file)
    region.populate()
    region.settle()
    assert ctypes.string_at(region.address, SIZE) == ctypes.string_at(holder.address, SIZE) == data
    region.close()
    holder.close()


def test_a_region_that_is_closed_does_not_wait_for_huge_pages(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    monkeypatch.setattr(memory, "_HUGE_PAGES_AFTER_S", 1e6)
    monkeypatch.setattr(memory, "use_huge_pages", lambda *_: asked.set())
    region = map_file(file)
    region.populate()
    region.close()
    assert not asked.is_set()
