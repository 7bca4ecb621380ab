"""Any bytes are a value of JSON that everything can work with, or a JsonError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.errors import ModelError
from inflight.files.json_file import MOST_LEVELS, JsonError, parse_json, read_json_object

pytestmark = pytest.mark.unit


def random_value(rng: np.random.Generator, levels: int = 4) -> Any:
    kind = rng.integers(8 if levels else 6)
    if kind == 6:
        return [random_value(rng, levels - 1) for _ in range(rng.integers(4))]
    if kind == 7:
        return {f"{rng.integers(1000)} ü💥": random_value(rng, levels - 1) for _ in range(rng.integers(4))}
    return [None, True, int(rng.integers(-(2**62), 2**62)), float(rng.normal()), "é\u0000\n💥", 10**39][kind]


@pytest.mark.parametrize("ascii_only", [True, False])
def test_values_are_read_as_they_were_written(rng: np.random.Generator, ascii_only: bool) -> None:
    for _ in range(50):
        value = random_value(rng)
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe{", "byte 0 is not UTF-8"),
        (b"[-" + b"7" * 41 + b"]", "out of range"),
        (b"9" * 10_000, "out of range"),
        (b'{"b": 1, "a": {"weight": 1, "weight": 2}}', "an object has 'weight' twice"),
        (b'["\\ud83d"]', "half a surrogate pair"),
        (b'{"\\uDCAF": 1}', "half a surrogate pair"),
        (b"[" * (MOST_LEVELS + 1) + b"]" * (MOST_LEVELS + 1), f"more than {MOST_LEVELS} levels"),
        (b"[" * 200_000, f"more than {MOST_LEVELS} levels"),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, f"more than {MOST_LEVELS} levels"),
    ],
)
def test_what_is_no_json_is_refused_with_the_reason(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(JsonError, match=message):
        parse_json(data)
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(ModelError, match=f"config.json is not valid JSON: .*{message}"):
        read_json_object(tmp_path / "config.json", ModelError)


def test_whole_surrogate_pairs_and_the_allowed_depth_are_read() -> None:
    assert parse_json(b'["\\ud83d\\udca5"]') == ["💥"]
    parse_json(b"[" * MOST_LEVELS + b"]" * MOST_LEVELS)
