"""Directories appear whole or not at all, and nothing is replaced that the command did not write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inflight.errors import InflightError
from inflight.files import atomic_directory

pytestmark = pytest.mark.unit

MARKER = "marker.json"


def write(target: Path, content: str = "new", *, overwrite: bool = False) -> None:
    with atomic_directory(target, overwrite=overwrite, marker=MARKER) as scratch:
        (scratch / "part").mkdir()
        (scratch / "part" / "data").write_text(content)
        (scratch / MARKER).write_text("{}")


def fail(target: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_directory(target, overwrite=True, marker=MARKER) as scratch:
        (scratch / "half").write_text("half")
        raise KeyboardInterrupt


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("name", ["plain", "with a space and ünïcödé", "x" * 255])
def test_a_directory_of_any_name_is_written_whole(tmp_path: Path, name: str) -> None:
    write(tmp_path / "not" / "there" / "yet" / name)
    assert (tmp_path / "not" / "there" / "yet" / name / "part" / "data").read_text() == "new"
    assert names(tmp_path / "not" / "there" / "yet") == {name}


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    fail(tmp_path / "out")
    assert names(tmp_path) == set()
    (tmp_path / "out").mkdir()
    fail(tmp_path / "out")
    assert names(tmp_path / "out") == set()
    write(tmp_path / "out", "old")
    fail(tmp_path / "out")
    assert names(tmp_path) == {"out"} and names(tmp_path / "out") == {"part", MARKER}


def test_an_empty_directory_is_filled_and_stays_the_same_directory(tmp_path: Path) -> None:
    """It may be a mount, or somebody's working directory."""
    target = tmp_path / "out"
    target.mkdir()
    inode = target.stat().st_ino
    write(target)
    assert target.stat().st_ino == inode
    assert names(target) == {"part", MARKER} and names(tmp_path) == {"out"}


def test_a_link_is_followed(tmp_path: Path) -> None:
    os.symlink(tmp_path / "real", tmp_path / "link")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / MARKER).is_file()
    write(tmp_path / "link", "newer", overwrite=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "part" / "data").read_text() == "newer"


def test_only_what_was_written_before_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write(target, "old")
    with pytest.raises(InflightError, match="--force"):
        write(target)
    write(target, overwrite=True)
    assert (target / "part" / "data").read_text() == "new"

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(InflightError, match=f"no {MARKER}"):
        write(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"

    for overwrite in (False, True):
        with pytest.raises(InflightError, match="is a file"):
            write(tmp_path / "mine" / "thesis.tex", overwrite=overwrite)
