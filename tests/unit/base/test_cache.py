"""What is kept for the user between runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from inflight.errors import InflightError
from inflight.files.cache import cached_path, user_cache_dir, writable_cache_dir, write_record

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


def test_without_a_home_the_cache_is_private_and_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/null is no directory and never becomes one, not even for root."""
    monkeypatch.setenv("INFLIGHT_CACHE", "/dev/null/cache")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache = writable_cache_dir()
    assert cache == tmp_path / f"inflight-{os.getuid()}" == writable_cache_dir()
    assert cache.stat().st_mode & 0o777 == 0o700
    assert cached_path("engines", "model") == cache / "engines" / "model"


def test_a_link_in_the_place_of_the_private_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLIGHT_CACHE", "/dev/null/cache")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"inflight-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(InflightError, match="Set INFLIGHT_CACHE"):
        writable_cache_dir()


def test_what_is_cached_already_is_used_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "own"))
    write_record(tmp_path / "own" / "sources" / "one", "digest")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cached_path("sources", "one") == tmp_path / "own" / "sources" / "one"
