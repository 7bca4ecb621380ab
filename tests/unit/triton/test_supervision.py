"""Watching an engine from another process, and what is left of processes that have ended."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.heartbeat import Heartbeat
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.executors.null.executor import NullExecutor, null_manifest
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import StepBatch, StepOutput
from inflight.triton_backend.launch.supervision import processes, scratch, sockets
from inflight.triton_backend.launch.supervision.watchdog import Watchdog
from tests.patience import eventually

pytestmark = pytest.mark.unit


class WatchedExecutor(NullExecutor):
    """A null executor that looks at the engine's heartbeat in each step, through the eyes of another process, and fails
    in the third."""

    def __init__(self, heartbeat: Path) -> None:
        super().__init__(null_manifest(max_batch_size=4, max_num_tokens=64), 64)
        self.seen: list[str] = []
        self._watchdog = Watchdog(Heartbeat(heartbeat), 0.0, self.seen.append)

    def execute(self, batch: StepBatch) -> StepOutput:
        self._watchdog.look(["the engine, pid 7"] if len(self.seen) == 0 else [])
        if sum("hangs" in line for line in self.seen) == 3:
            raise RuntimeError("the accelerator caught fire")
        return super().execute(batch)


def test_the_watchdog_names_the_step_and_the_cause_of_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    executor = WatchedExecutor(path)
    engine = EngineThread(EngineCore(executor, None, Heartbeat(path)))
    request = Request("one", (5, 6, 7, 8), SamplingParams(max_tokens=20, n=1), end_token_ids=())
    engine.submit(request, lambda delta: None)
    watchdog = Watchdog(Heartbeat(path), 60, lambda text: None)
    assert eventually(lambda: watchdog.failure() is not None)
    assert watchdog.failure() == "the accelerator caught fire"
    assert Heartbeat(path).running_step() is None and eventually(watchdog.idle)
    first, *_ = executor.seen
    assert "The engine hangs: step 1 (1 sequences, 4 tokens) has run for" in first
    assert "stopped by a signal: the engine, pid 7" in first
    assert any("Step 1 of the engine has ended" in line for line in executor.seen)
    watchdog.reset()
    assert watchdog.failure() is None
    engine.close()


def test_an_engine_that_is_halted_between_two_steps_is_named_as_well(tmp_path: Path) -> None:
    said: list[str] = []
    watchdog = Watchdog(Heartbeat(tmp_path / "heartbeat"), 0.01, said.append)

    def is_named() -> bool:
        watchdog.look(["it, pid 7"])
        return bool(said)

    assert eventually(is_named)
    assert "nothing has come after step 0" in said[0] and "it, pid 7" in said[0]
    watchdog.look([])
    assert "goes on" in said[-1]


def test_how_a_process_ended_is_told(tmp_path: Path) -> None:
    for code, expected in ((5, "exit code 5"), (-signal.SIGKILL, "SIGKILL"), (-signal.SIGSEGV, "SIGSEGV")):
        assert expected in processes.how_it_ended(code)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.pid in processes.children(os.getpid())
    child.kill()

    def status() -> int:
        state = processes.process_state(child.pid)
        assert state is not None
        return os.waitstatus_to_exitcode(state.status) if state.state == "Z" else 0

    assert eventually(lambda: status() == -signal.SIGKILL)
    child.wait()
    assert child.stdin is not None
    child.stdin.close()
    assert processes.process_state(child.pid) is None


def test_who_listens_on_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        holder = sockets.listener(listening.getsockname()[1])
    assert holder is not None and holder.endswith(f"pid {os.getpid()}")


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_client_that_has_left_is_none_though_the_server_holds_on_to_it(
    family: socket.AddressFamily, host: str
) -> None:
    try:
        listening = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with listening:
        ports = [listening.getsockname()[1]]
        assert not sockets.has_clients(ports)
        with socket.create_connection((host, ports[0])):
            held, _ = listening.accept()
            assert sockets.has_clients(ports)
            assert not sockets.has_clients([ports[0] + 1])
        with held:
            assert eventually(lambda: not sockets.has_clients(ports))


def test_what_a_killed_server_left_is_removed_and_a_running_one_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_SHARED_MEMORY", tmp_path / "shm")
    (tmp_path / "shm").mkdir()
    with scratch.serving_folder() as killed:
        abandoned = tmp_path / f"{killed.name}-killed"
        abandoned.mkdir()
        (abandoned / "lock").touch()
        memory = [tmp_path / "shm" / f"{folder.name}_1" for folder in (killed, abandoned)]
        for region in memory:
            region.touch()
        with (killed / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with scratch.serving_folder() as other:
            assert killed.is_dir() and other.is_dir() and not abandoned.exists()
            assert memory[0].exists() and not memory[1].exists()
    assert not killed.exists()


# A session with a process that hangs, as a model's process does that waits for its server, and a guard of it.
GUARDING = """
import subprocess, sys
from inflight.triton_backend.launch.supervision.processes import SessionGuard
leader = subprocess.Popen(
    ["/bin/sh", "-c", "trap '' TERM; sleep 1000 & echo $!; kill -s STOP $!; wait"],
    start_new_session=True, stdout=subprocess.PIPE,
)
hanging = int(leader.stdout.readline())
guard = SessionGuard(leader.pid)
print(leader.pid, hanging, guard._shell.pid, flush=True)
if sys.stdin.readline() == "dismiss\\n":
    guard.dismiss()
    print("dismissed", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("dismissed", [False, True])
def test_a_session_ends_with_the_process_that_guards_it_also_where_it_hangs(dismissed: bool) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", GUARDING], stdin=pipe, stdout=pipe, text=True) as guarding:
        assert guarding.stdin is not None and guarding.stdout is not None
        leader, hanging, shell = map(int, guarding.stdout.readline().split())
        try:
            if dismissed:
                guarding.stdin.write("dismiss\n")
                guarding.stdin.flush()
                assert guarding.stdout.readline() == "dismissed\n"
            guarding.kill()
            guarding.wait()
            assert eventually(lambda: has_ended(shell))
            assert dismissed or eventually(lambda: has_ended(leader) and has_ended(hanging))
            assert not dismissed or not has_ended(hanging)
        finally:
            if dismissed:
                os.killpg(leader, signal.SIGKILL)


def has_ended(pid: int) -> bool:
    state = processes.process_state(pid)
    return state is None or state.state in "ZX"
