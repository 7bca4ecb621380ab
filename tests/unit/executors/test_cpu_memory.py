"""Memory of the cpu executor: files mapped ahead, and zeroed regions."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

import numpy as np
import pytest

from inflight.errors import EngineError
from inflight.runtime.executors.cpu.memory import Region, map_ahead, map_file, map_zeroed

pytestmark = pytest.mark.unit


def contents(region: Region, size: int) -> bytes:
    return ctypes.string_at(region.address, size)


@pytest.fixture
def file(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(rng.bytes(int(rng.integers(1, 5 << 20))))
    return path


def test_a_file_is_mapped_with_a_descriptor_that_closes_with_it(file: Path) -> None:
    data = file.read_bytes()
    region = map_file(file)
    descriptor = region.file
    region.populate()
    assert contents(region, len(data)) == data
    assert os.pread(descriptor, 9, 0) == data[:9]
    region.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    region.close()


@pytest.mark.parametrize("start", [0, 4096, 3 << 20, 1 << 40])
def test_a_file_that_was_mapped_ahead_is_not_mapped_again(file: Path, start: int) -> None:
    map_ahead(file, start)
    region = map_file(file)
    if Path("/proc/self/fd").exists():
        assert open_descriptors(file) == 1
    assert contents(region, file.stat().st_size) == file.read_bytes()
    other = map_file(file)
    assert other.address != region.address
    region.close()
    other.close()


def open_descriptors(file: Path) -> int:
    """Those of this process that are of `file`; others come and go with threads of other tests."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += os.readlink(link) == str(file.resolve())
    return count


def test_a_file_that_was_replaced_after_it_was_mapped_ahead_is_mapped_as_it_is_now(
    file: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    map_ahead(file, 0)
    data = rng.bytes(file.stat().st_size)
    (tmp_path / "new").write_bytes(data)
    os.replace(tmp_path / "new", file)
    region = map_file(file)
    assert contents(region, len(data)) == data
    region.close()


def test_what_is_wrong_with_a_file_is_said_when_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("missing", "empty"):
        map_ahead(tmp_path / name, 0)
        with pytest.raises(OSError):
            map_file(tmp_path / name)


def test_zeroed_memory_is_zero_and_can_be_written(rng: np.random.Generator) -> None:
    size = int(rng.integers(1, 1 << 20))
    region = map_zeroed(size, "test")
    assert contents(region, size) == bytes(size)
    data = rng.bytes(size)
    ctypes.memmove(region.address, data, size)
    assert contents(region, size) == data
    region.close()


def test_memory_that_the_system_refuses_is_an_error_with_its_purpose() -> None:
    with pytest.raises(EngineError, match="KV cache"):
        map_zeroed(1 << 60, "KV cache")
