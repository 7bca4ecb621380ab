"""The short form of the fault suite; scripts/faults runs the long one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from inflight.triton_backend.launch.installation import find_triton
from tests.engines.serving_engines import write_null_engine
from tests.faults.commands import commands
from tests.faults.model import built_model
from tests.faults.report import Row, table
from tests.faults.served import Mode
from tests.faults.suite import SHORT, disturb_clients, disturb_command

pytestmark = pytest.mark.endpoint


def check(rows: list[Row]) -> None:
    shown = table(rows)
    print(shown)
    assert rows and all(row.passed for row in rows), shown


@pytest.mark.parametrize("mode", ["embedded", pytest.param("triton", marks=pytest.mark.slow)])
def test_clients_that_are_slow_or_leave_disturb_nobody_and_leave_nothing_behind(
    mode: Mode, tmp_path: Path, rng: np.random.Generator
) -> None:
    if mode == "triton" and isinstance(reason := find_triton(), str):
        pytest.skip(reason)
    engine = write_null_engine(tmp_path / "engine", max_seq_len=1 << 16)
    check(asyncio.run(disturb_clients(mode, engine, tmp_path, SHORT, rng)))


def test_interrupted_commands_and_full_disks_leave_nothing_half_written(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    model, built = built_model(tmp_path / "model", int(rng.integers(1 << 30)))
    check([row for each in commands(model, *built) for row in disturb_command(each, tmp_path / each.name, SHORT, rng)])
