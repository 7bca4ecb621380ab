"""What scripts/compare writes once: several processes that ask for it at once get the same, written by one of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.paths import SCRIPTS

sys.path.append(str(SCRIPTS))

from compare.engines.base import prepared_once
from compare.offline.worker_process import EngineFailed

from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.unit

# Notes that it has begun, waits until it may go on, and writes a directory or a file.
ASK = """
import sys, time
from pathlib import Path
from compare.engines.base import prepared_once

target, begun, going = map(Path, sys.argv[1:4])

def write(path):
    with begun.open("a") as notes:
        notes.write("x")
    while not going.exists():
        time.sleep(0.01)
    path.mkdir()
    (path / "content").write_text("whole")

print((prepared_once(target, write) / "content").read_text())
"""


def test_processes_that_ask_at_once_wait_for_the_one_that_writes(tmp_path: Path, rng: np.random.Generator) -> None:
    target, begun, going = tmp_path / "folder" / "target", tmp_path / "begun", tmp_path / "going"
    line = [sys.executable, "-c", ASK, *map(str, (target, begun, going))]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    asking = [
        subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(rng.integers(2, 4))
    ]
    try:
        eventually(begun.exists)
        going.touch()
        assert [process.communicate(timeout=PATIENCE_S)[0] for process in asking] == ["whole\n"] * len(asking)
    finally:
        for process in asking:
            process.kill()
            process.wait()
    assert begun.read_text() == "x"
    assert not (target.parent / "partial-target").exists()


def test_what_one_could_not_write_the_next_one_writes(tmp_path: Path) -> None:
    target = tmp_path / "target"

    def fail(path: Path) -> None:
        path.write_text("half")
        raise EngineFailed("no space")

    with pytest.raises(EngineFailed):
        prepared_once(target, fail)
    assert not target.exists() and not (tmp_path / "partial-target").exists()
    assert prepared_once(target, lambda path: path.mkdir()).is_dir()
