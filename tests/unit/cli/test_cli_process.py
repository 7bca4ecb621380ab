"""The command as a process: what it prints, how it exits, and what it leaves behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from inflight import __version__
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.unit

COMMAND = (sys.executable, "-c", "from inflight.cli.main import main; main()")


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=os.environ | environment)


def test_the_package_runs_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "inflight", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == run("--version").stdout and __version__ in done.stdout


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator) -> Path:
    config = tiny_config()
    return write_model(tmp_path / "model", config, random_tensors(config, rng))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing_half_written(tmp_path: Path, rng: np.random.Generator, number: signal.Signals) -> None:
    config = tiny_config(hidden_size=512, intermediate_size=4096, vocab_size=20000)
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    words = [*COMMAND, "convert", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--tp-size", "2"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not any(tmp_path.glob(".out.*/rank0.safetensors")):
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in errors
    left = {path.name for path in tmp_path.iterdir()} - {"model"}
    assert (process.returncode, left) in ((128 + number, set()), (0, {"out"}))


def test_a_full_disk_ends_in_a_message(tmp_path: Path, rng: np.random.Generator) -> None:
    """No file may grow beyond 100 kB: the checkpoint's would."""
    config = tiny_config(vocab_size=20000)
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    result = subprocess.run(
        [*COMMAND, "convert", str(tmp_path / "model"), "-o", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "File too large" in result.stderr and "Free some space" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_an_output_inside_a_file_ends_in_a_message(tmp_path: Path, model: Path) -> None:
    result = run("convert", model, "-o", model / "config.json" / "out")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert str(model / "config.json") in result.stderr


def test_what_to_run_next_can_be_pasted_into_a_shell(tmp_path: Path, model: Path) -> None:
    result = run("convert", model, "-o", tmp_path / "my ckpt", COLUMNS="40")
    assert result.returncode == 0
    assert f"--checkpoint-dir '{tmp_path / 'my ckpt'}' --output-dir ENGINE" in result.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_any_encoding_gets_its_help(encoding: str) -> None:
    result = run("generate", "--help", PYTHONIOENCODING=encoding)
    assert result.returncode == 0 and "--max-tokens" in result.stdout and "Traceback" not in result.stderr
