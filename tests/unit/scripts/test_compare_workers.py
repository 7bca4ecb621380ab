"""How scripts/compare speaks to an engine's process, whatever that does."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.paths import SCRIPTS
from tests.patience import PATIENCE_S, eventually

sys.path.append(str(SCRIPTS))

from compare.offline import worker_process
from compare.offline.worker_process import Command, EngineFailed, WorkerProcess

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="stops processes, and reads /proc"),
]

ENGINE = """
import json, sys, time
print(json.dumps({"ready": True, "version": "engine 1"}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    tokens = len(request["prompts"]) * request["max_tokens"]
    CALL
    print(json.dumps({"seconds": 0.25, "tokens": tokens}), flush=True)
"""


def worker(tmp_path: Path, call: str = "") -> WorkerProcess:
    return WorkerProcess("engine", Command([sys.executable, "-c", ENGINE.replace("CALL", call)]), tmp_path / "log")


def rests(process: WorkerProcess) -> bool:
    """Whether it is stopped or ended; the signal takes a moment to arrive."""
    stat = Path(f"/proc/{process.pid}/stat")
    return eventually(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "TZ")


def test_an_engine_computes_when_asked_and_is_stopped_at_other_times(tmp_path: Path, rng: np.random.Generator) -> None:
    with worker(tmp_path) as engine:
        assert engine.version == "engine 1"
        for _ in range(3):
            prompts = rng.integers(0, 99, (int(rng.integers(1, 5)), 4)).tolist()
            assert engine.measure(prompts, int(rng.integers(1, 9))) == 0.25
            assert rests(engine)
        assert engine.peak_memory() > 1 << 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("tokens -= 1", "it made 5 tokens; 6 were asked for"),
        ("print('hello', flush=True)", "it answered b'hello"),
        ("sys.exit('no memory')", "exit code 1: no memory"),
    ],
)
def test_an_engine_that_fails_says_how_and_takes_no_more_time_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, message: str
) -> None:
    monkeypatch.setattr(worker_process, "QUIT_TIMEOUT_S", PATIENCE_S)
    with worker(tmp_path, call) as engine:
        with pytest.raises(EngineFailed, match=message):
            engine.measure([[1], [2], [3]], 2)
        assert rests(engine)


@pytest.mark.parametrize(
    ("call", "limit", "message"),
    [
        ("time.sleep(10_000)", "CALL_TIMEOUT_S", "no answer within"),
        ("import os; os.close(1); time.sleep(10_000)", "QUIT_TIMEOUT_S", "it hung up"),
    ],
)
def test_an_engine_that_hangs_is_given_up_when_its_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, limit: str, message: str
) -> None:
    monkeypatch.setattr(worker_process, "QUIT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(worker_process, limit, 0.5)
    with worker(tmp_path, call) as engine:
        with pytest.raises(EngineFailed, match=message):
            engine.measure([[1], [2], [3]], 2)
        assert rests(engine)


def test_an_engine_that_does_not_start_is_told_by_its_last_line(tmp_path: Path) -> None:
    command = Command([sys.executable, "-c", "import sys; sys.exit('no such model')"])
    with pytest.raises(EngineFailed, match="exit code 1: no such model"):
        WorkerProcess("engine", command, tmp_path / "log")
