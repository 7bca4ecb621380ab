"""Random damage to files of a directory: what a bad disk, a broken download or an editor does to them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

WEIRD: tuple[Any, ...] = (
    *(None, True, "", "\x00", "x" * 300, -1, 0, 1.5, 1e308, 10**30, 2**63, -(2**31), [], {}, [[]], {"a": 1}),
    *(["a", 1], "../../etc/passwd", "/etc/passwd", "float32", "sliding_attention", "\U0001f4a5"),
)
# What json.dumps does not write.
RAW = (
    *("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "-" + "9" * 60, '"\\ud800"', "tru", "", "'a'", "01"),
    *("[" * 200 + "]" * 200, "[" * 100_000 + "]" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '{"a": 1, "a": 2}'),
)
_HOLE = "\x01hole\x01"


def damaged_copy(directory: Path, copy: Path, rng: np.random.Generator) -> str:
    """Copy `directory` (by links) with one file damaged at random; what was done, in words."""
    shutil.copytree(directory, copy, copy_function=os.link)
    path = _pick(sorted(path for path in copy.rglob("*") if path.is_file()), rng)
    data = path.read_bytes()
    kinds = [_flip, _cut, _lengthen]
    if path.suffix == ".json":
        kinds += [_set_value, _set_value, _set_value, _repeat_key]
    elif path.suffix == ".safetensors":
        kinds += [_set_value_in_header]
    kind = kinds[rng.integers(len(kinds))]
    damaged, what = kind(data, rng)
    path.unlink()
    path.write_bytes(damaged)
    return f"{path.relative_to(copy)}: {what}"


def _flip(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    damaged, place = bytearray(data), int(rng.integers(max(1, len(data))))
    if data:
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged), f"byte {place} flipped"


def _cut(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    length = int(rng.integers(len(data) + 1))
    return data[:length], f"cut to {length} bytes"


def _lengthen(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    added = rng.bytes(int(rng.integers(1, 40)))
    return data + added, f"{added!r} added"


def _set_value(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    value = json.loads(data)
    places = list(_places(value))
    if not places:
        return b"[]", "[] in its place"
    container, key = places[rng.integers(len(places))]
    if rng.random() < 0.5:
        container[key] = WEIRD[rng.integers(len(WEIRD))]
        return json.dumps(value).encode(), f"{key!r} is {container[key]!r}"[:200]
    container[key] = _HOLE
    raw = RAW[rng.integers(len(RAW))]
    return json.dumps(value).replace(json.dumps(_HOLE), raw).encode(), f"{key!r} is {raw[:60]}"


def _repeat_key(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    text = data.decode().strip()
    keys = list(json.loads(data))
    key = str(keys[rng.integers(len(keys))]) if keys else "a"
    return f"{text[:-1]}, {json.dumps(key)}: null}}".encode(), f"{key!r} twice"


def _set_value_in_header(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    length = int.from_bytes(data[:8], "little")
    header, what = _set_value(data[8 : 8 + length], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + length :], f"header: {what}"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)


def _pick(paths: list[Path], rng: np.random.Generator) -> Path:
    """Files are as likely as each other; those of JSON, where most can go wrong, three times as likely."""
    weights = np.array([3.0 if path.suffix == ".json" else 1.0 for path in paths])
    return paths[rng.choice(len(paths), p=weights / weights.sum())]
