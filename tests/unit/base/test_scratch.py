"""What a killed or failed process leaves beside its output is gone after the next one; what is in use stays."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inflight.files import atomic_directory
from inflight.files.scratch import scratch_directory, temporary_directory
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.unit

HOLD = """
import sys, time
from pathlib import Path
from inflight.files import atomic_directory
with atomic_directory(Path(sys.argv[1]), overwrite=True) as scratch:
    (scratch / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(1000)
"""
HOLD_TEMPORARY = """
import time
from inflight.files.scratch import temporary_directory
with temporary_directory("x") as scratch:
    (scratch / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(1000)
"""
DIE_WHILE_REPLACING = """
import os, signal, sys
from pathlib import Path
from inflight.files import atomic_directory
rename, count = os.rename, 0
def dying(source, target):
    global count
    count += 1
    if count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
os.rename = dying
with atomic_directory(Path(sys.argv[1]), overwrite=True) as scratch:
    (scratch / "new").write_text("new")
"""


def write(target: Path) -> None:
    with atomic_directory(target, overwrite=True) as scratch:
        (scratch / "whole").write_text("whole")


def hold(target: Path) -> subprocess.Popen[str]:
    return _run_and_wait([sys.executable, "-c", HOLD, str(target)])


def _run_and_wait(command: list[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("there", ["absent", "empty", "full"])
def test_what_a_killed_process_left_is_removed_and_what_is_in_use_stays(tmp_path: Path, there: str) -> None:
    target = tmp_path / "out [1]*"
    if there != "absent":
        target.mkdir()
    if there == "full":
        (target / "old").write_text("old")
    process = hold(target)
    left = list((target if there == "empty" else tmp_path).glob(".out*"))
    assert len(left) == 1
    if there != "empty":
        write(target)
        assert (left[0] / "half").is_file(), "it was in use"
    process.kill()
    process.wait(PATIENCE_S)
    write(target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert [path.name for path in target.iterdir()] == ["whole"]
    process.stdout.close()  # type: ignore[union-attr]


def test_a_process_killed_between_the_old_and_the_new_loses_neither(tmp_path: Path) -> None:
    write(tmp_path / "out")
    done = subprocess.run([sys.executable, "-c", DIE_WHILE_REPLACING, str(tmp_path / "out")], check=False)
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "out", overwrite=True):
        raise KeyboardInterrupt
    assert (tmp_path / "out" / "whole").is_file() and len(list(tmp_path.iterdir())) == 1


def test_scratch_directories_of_many_processes_do_not_take_each_other_away(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom inflight.files.scratch import remove_stale, scratch_directory\n"
        "for i in range(60):\n    remove_stale(Path(sys.argv[1]), 'x')\n"
        "    with scratch_directory(Path(sys.argv[1]), 'x') as path:\n        (path / 'file').write_text('x')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(PATIENCE_S) for process in processes] == [0] * 4
    assert not list(tmp_path.iterdir())


def test_temporary_directories_of_killed_processes_are_removed_and_those_of_living_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead, alive = (_run_and_wait([sys.executable, "-c", HOLD_TEMPORARY]) for _ in range(2))
    assert len(list(tmp_path.iterdir())) == 2
    dead.kill()
    dead.wait(PATIENCE_S)
    with temporary_directory("x") as mine:
        assert mine.stat().st_mode & 0o777 == 0o700 and len(list(tmp_path.iterdir())) == 2
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and (left[0] / "half").is_file(), "it is in use"
    alive.kill()
    alive.wait(PATIENCE_S)
    if os.geteuid() == 0:
        os.chown(left[0], 12345, -1)
        with temporary_directory("x"):
            pass
        assert left[0].is_dir(), "it is another user's"
        os.chown(left[0], 0, -1)
    with temporary_directory("x"):
        pass
    assert not list(tmp_path.iterdir())
    for process in (dead, alive):
        process.stdout.close()  # type: ignore[union-attr]


def test_a_directory_of_another_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".out.mine").mkdir()
    with scratch_directory(tmp_path, "other") as other:
        write(tmp_path / "out")
        assert other.is_dir() and (tmp_path / ".out.mine").is_dir()


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, rng: np.random.Generator) -> None:
    """A limit on the size of files stands for it."""
    config = tiny_config(vocab_size=5000)
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    done = subprocess.run(
        [sys.executable, "-c", "from inflight.cli.main import main; main()", "convert", "model", "-o", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "300"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "nothing was left half-written" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
