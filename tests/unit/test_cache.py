"""What is kept for the user between runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inflight.cache import user_cache_dir, write_record

pytestmark = pytest.mark.unit


def test_a_record_is_replaced_whole_or_not_at_all(tmp_path: Path, rng: np.random.Generator) -> None:
    path, first, second = tmp_path / "new" / "record", rng.bytes(50).hex(), rng.bytes(9).hex()
    for text in (first, second):
        write_record(path, text)
        assert path.read_text() == text
    with pytest.raises(UnicodeEncodeError):
        write_record(path, first + "\ud800")
    assert path.read_text() == second
    assert list(path.parent.iterdir()) == [path]


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("INFLIGHT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert user_cache_dir() == tmp_path / "home" / ".cache" / "inflight"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache_dir() == tmp_path / "xdg" / "inflight"
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "own"))
    assert user_cache_dir() == tmp_path / "own"
