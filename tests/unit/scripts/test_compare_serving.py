"""The figures of scripts/compare/serve: whose processor time counts, and what is taken off."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.paths import SCRIPTS

sys.path.append(str(SCRIPTS))

from compare.serving.processes import cpu_seconds, spent, tree
from compare.serving.record import LATENCIES, OFFLINE, RANKS, Sample, ServeRun
from compare.serving.report import markdown
from compare.serving.ways import WAYS, Workload

pytestmark = pytest.mark.unit

BUSY = """
import time
while time.process_time() < 0.3:
    pass
print("done", flush=True)
time.sleep(60)
"""


def random_sample(rng: np.random.Generator, with_clients: bool) -> Sample:
    seconds = float(rng.uniform(5, 20))
    names = [f"{rank}_{name}" for rank in RANKS for name in LATENCIES]
    latencies = {name: float(rng.uniform(1, 99)) for name in names}
    client_cpu = float(rng.uniform(0.1, 1)) if with_clients else 0.0
    return Sample(seconds, 2048, {"engine's process": seconds}, client_cpu, latencies if with_clients else {}, 0.01)


@pytest.fixture
def run(rng: np.random.Generator) -> ServeRun:
    samples = {key: [random_sample(rng, key != OFFLINE) for _ in range(3)] for key in (OFFLINE, WAYS[0].key)}
    return ServeRun("today", {"cores": 2}, 2, 2, "shape", "bf16", Workload(32, 128, 64), samples)


def test_a_record_is_read_as_it_was_written_and_gives_the_same_tables(run: ServeRun, tmp_path: Path) -> None:
    run.write(tmp_path / "run.json")
    read = ServeRun.read(tmp_path / "run.json")
    assert read == run
    assert markdown(read) == markdown(run)


def test_the_clients_time_is_taken_off_by_the_cores_it_was_shared_with(run: ServeRun) -> None:
    pairs = list(zip(run.samples[WAYS[0].key], run.samples[OFFLINE], strict=True))
    without = [offline.seconds / (sample.seconds - sample.client_cpu / run.cores) for sample, offline in pairs]
    assert run.share_of_offline(WAYS[0].key) == pytest.approx(statistics.median(without))
    as_measured = [offline.seconds / sample.seconds for sample, offline in pairs]
    assert run.share_of_offline(WAYS[0].key, without_clients=False) == pytest.approx(statistics.median(as_measured))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_processor_time_counts_a_process_and_what_it_started() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        assert process.pid in tree(os.getpid())
        before = cpu_seconds(process.pid, "root")
        assert list(before) == ["root"]
        assert before["root"] >= 0.25
        time.sleep(0.05)
        assert spent(before, cpu_seconds(process.pid, "root"))["root"] < before["root"]
        process.kill()
