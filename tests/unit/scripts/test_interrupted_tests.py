"""scripts/test, beside tools that take for ever: nothing of it runs on after Ctrl-C."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.unit

MARKS = ("mypy", "child", "pytest")

# As the tools are called: mypy ends by itself at no interrupt, pytest ends with a status of its own.
_PYTHON = """#!/usr/bin/env bash
case "$*" in
  "-m mypy"*) (exec sleep 1000) & echo $! > "$MARKS/child"; echo $$ > "$MARKS/mypy"; wait ;;
  "-m pytest"*) trap 'touch "$MARKS/stopped"; exit 2' INT; echo $$ > "$MARKS/pytest"; while true; do sleep 0.05; done ;;
esac
"""


def running(pid: int) -> bool:
    """Zombies do not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("send", [os.killpg, os.kill], ids=["to all in front", "to the script alone"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_that_the_script_began(
    number: signal.Signals, send: Callable[[int, int], None], tmp_path: Path
) -> None:
    """A terminal sends it to all that stands in front, and `kill` to the script alone."""
    scripts, tools, marks = tmp_path / "scripts", tmp_path / "venv" / "bin", tmp_path / "marks"
    for folder in (scripts, tools, marks):
        folder.mkdir(parents=True)
    for name in ("test", "typecheck", "lib.sh"):
        shutil.copy(ROOT / "scripts" / name, scripts)
    for name, text in (("python", _PYTHON), ("ruff", "#!/bin/sh\n")):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (tmp_path / "pyproject.toml").write_text("# nothing\n")
    stamp = hashlib.sha256((tmp_path / "pyproject.toml").read_bytes()).hexdigest()
    (tmp_path / "venv" / ".inflight-installed-test").write_text(stamp)
    environment = {**os.environ, "INFLIGHT_VENV": str(tmp_path / "venv"), "MARKS": str(marks)}
    script = subprocess.Popen([scripts / "test"], env=environment, start_new_session=True, stderr=subprocess.PIPE)
    assert eventually(lambda: all((marks / name).is_file() and (marks / name).read_text() for name in MARKS))
    begun = [int((marks / name).read_text()) for name in MARKS]
    send(script.pid, number)
    _, said = script.communicate(timeout=PATIENCE_S)
    assert script.returncode == 128 + number, said.decode()
    assert (marks / "stopped").is_file(), "pytest was ended before it could stop what its tests have started"
    assert eventually(lambda: not any(map(running, begun)))
