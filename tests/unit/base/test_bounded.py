"""Files of the cache that together stay below a size."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from inflight.files.bounded import BoundedFiles

pytestmark = pytest.mark.unit


def test_what_was_put_is_found_and_replaced(tmp_path: Path, rng: np.random.Generator) -> None:
    kept = BoundedFiles(tmp_path / "new" / "place", 1000)
    assert kept.get("ab") is None
    for content in (rng.bytes(100), rng.bytes(7), b""):
        kept.put("ab", content)
        assert kept.get("ab") == content and kept.get("abc") is None
    assert [path.name for path in (tmp_path / "new" / "place").iterdir()] == ["ab"]


def test_what_was_used_last_stays_within_the_size(tmp_path: Path, rng: np.random.Generator) -> None:
    """Of five with room for three; the oldest is read before the others come."""
    kept, contents = BoundedFiles(tmp_path, 3 * (200 + 32)), [rng.bytes(200) for _ in range(5)]
    for number, content in enumerate(contents):
        kept.put(str(number), content)
        os.utime(tmp_path / str(number), (number, number))
        if number:
            assert kept.get("0") == contents[0]
    assert {path.name for path in tmp_path.iterdir()} == {"0", "3", "4"}
    kept.put("large", rng.bytes(3 * 232))
    assert kept.get("large") is None and kept.get("4") == contents[4]


@pytest.mark.parametrize("damage", ["changed", "cut", "empty"])
def test_what_is_damaged_is_as_if_it_were_not_there(tmp_path: Path, rng: np.random.Generator, damage: str) -> None:
    kept, path, content = BoundedFiles(tmp_path, 1000), tmp_path / "key", rng.bytes(50)
    kept.put("key", content)
    stored = bytearray(path.read_bytes())
    place = int(rng.integers(len(stored)))
    stored[place] ^= 1
    path.write_bytes({"changed": bytes(stored), "cut": bytes(stored[:place]), "empty": b""}[damage])
    assert kept.get("key") is None
    kept.put("key", content)
    assert kept.get("key") == content


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    kept = BoundedFiles(tmp_path / "file" / "place", 1000)
    kept.put("key", b"content")
    assert kept.get("key") is None
