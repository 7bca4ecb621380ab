"""The safetensors container: our header parser and writer against the safetensors package."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from inflight.files.tensor_file import ALIGNMENT, TensorFileError, encode_header, map_array, read_header

pytestmark = pytest.mark.unit


def random_arrays(rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    types = [np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.int64]
    return {
        f"t{i}": rng.standard_normal(tuple(rng.integers(0, 9, size=int(rng.integers(0, 4))))).astype(types[i % 5])
        for i in range(12)
    }


def test_reads_what_the_safetensors_package_writes(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays = random_arrays(rng)
    save_file(arrays, tmp_path / "a.safetensors", metadata={"format": "pt"})
    entries = read_header(tmp_path / "a.safetensors")
    assert entries.keys() == arrays.keys()
    for name, array in arrays.items():
        assert entries[name].dtype == array.dtype.name
        assert map_array(entries[name]).tobytes() == array.tobytes()
        assert map_array(entries[name]).shape == array.shape


def test_the_safetensors_package_reads_what_we_write(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays = {f"x{i}": rng.standard_normal((i + 1, 5)).astype(ml_dtypes.bfloat16) for i in range(7)}
    header = encode_header({name: ("bfloat16", array.shape) for name, array in arrays.items()})
    assert len(header) % ALIGNMENT == 0
    (tmp_path / "b.safetensors").write_bytes(header + b"".join(array.tobytes() for array in arrays.values()))
    for name, array in load_file(tmp_path / "b.safetensors").items():
        assert array.tobytes() == arrays[name].tobytes()


def test_mapped_arrays_cannot_be_written_to(tmp_path: Path) -> None:
    save_file({"x": np.ones(3, np.float32)}, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="read-only"):
        map_array(read_header(tmp_path / "c.safetensors")["x"])[0] = 2


def with_header(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a safetensors file"),
        (b"\x00" * 8, "not a safetensors file"),
        (struct.pack("<Q", 1 << 40) + b"{}", "not a safetensors file"),
        (struct.pack("<Q", 4) + b"{]]}", "not valid JSON"),
        (with_header([1]), "not a JSON object"),
        (with_header({"w": {"dtype": "F32"}}), "tensor w has a malformed entry"),
        (with_header({"w": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, b"1234"), "type"),
        (with_header({"w": {"dtype": "F32", "shape": [math.inf], "data_offsets": [0, 4]}}, b"1234"), "malformed entry"),
        (with_header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, math.inf]}}, b"1234"), "malformed entry"),
        (with_header({"w": {"dtype": "F12", "shape": [1], "data_offsets": [0, 4]}}, b"1234"), "type F12"),
        (with_header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"), "cannot occupy 4 bytes"),
        (
            with_header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"),
            "does not begin where",
        ),
        (with_header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"), "is truncated"),
        (with_header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"123456"), "2 bytes after"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(TensorFileError, match=message) as error:
        read_header(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match=r"none\.safetensors cannot be read"):
        read_header(tmp_path / "none.safetensors")
