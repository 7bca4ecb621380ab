"""The offline programs of examples/, run as a user runs them, on an engine of the embedded model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from tests.paths import EXAMPLES

pytestmark = pytest.mark.pipeline

OFFLINE = ("log_probabilities.py", "offline_generation.py", "prefix_caching.py", "programs.py", "streaming.py")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, embedded_model: Path) -> Path:
    place = tmp_path_factory.mktemp("examples")
    convert_model(embedded_model, place / "checkpoint", ConvertOptions(dtype="float32"))
    build_engine(place / "checkpoint", place / "engine", make_recipe(max_batch_size=8, max_seq_len=512))
    return place / "engine"


@pytest.mark.parametrize("program", OFFLINE)
def test_an_offline_example_runs(program: str, engine: Path) -> None:
    command = [sys.executable, str(EXAMPLES / program), str(engine)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
