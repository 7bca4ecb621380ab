"""Parts of a kit (scripts/compare/kit/parts) beside programs that are not here: each says what became of them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

pytest.importorskip("triton", reason="pip install 'inflight-llm[cuda-compile]'")
sys.path.append(str(ROOT / "scripts"))
from compare.gpu.torch_peer import TorchPeer
from compare.kit.networks import networks
from compare.kit.parts import company, peers, sampling, sanitizer, stopwatch
from compare.kit.parts.report import Report
from compare.kit.parts.steppers import Kit
from compare.offline.worker_process import EngineFailed

from inflight.build.gpu_kernels.kernels.split_sums import row_tiles
from inflight.build.targets.cuda.operators.attention import SPLIT_TOKENS

pytestmark = pytest.mark.unit

Program = Callable[[str, str], Path]
# Speaks as torch's worker does: the second work is one that it cannot do.
WORKER = """
print(json.dumps({"version": "torch 0"}), flush=True)
for number, line in enumerate(sys.stdin):
    work = json.loads(line)["work"]
    print(json.dumps({"error": "no " + work} if number else {"seconds": 3e-6}), flush=True)
"""


@pytest.fixture
def report(tmp_path: Path) -> Report:
    (tmp_path / "results.json").write_text("{}")
    return Report(tmp_path / "results.json", "part")


@pytest.fixture
def program(tmp_path: Path) -> Program:
    def write(name: str, text: str) -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\nimport json, sys, time\n{text}")
        path.chmod(0o755)
        return path

    return write


def test_slow_steps_are_measured_fewer_times(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []
    assert stopwatch._median(lambda: made.append(0), 50) < 1e3 and len(made) == 50
    made.clear()
    monkeypatch.setattr(stopwatch, "_MOST_SECONDS", 0.05)

    def slow() -> None:
        made.append(0)
        time.sleep(0.02)

    assert stopwatch._median(slow, 1000) >= 20 and len(made) <= 3


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "nothing"),
        ("print('Invalid __global__ read'); sys.exit(86)", "errors: Invalid __global__ read"),
        ("print('Device not supported'); sys.exit(1)", "status 1: Device not supported"),
        ("time.sleep(600)", "not ended after 1 s"),
    ],
)
def test_what_the_sanitizer_says_is_kept_and_its_errors_are_failures(
    tmp_path: Path, report: Report, program: Program, monkeypatch: pytest.MonkeyPatch, text: str, found: str
) -> None:
    path = program("compute-sanitizer", text)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sanitizer, "_ENGINES", ("one",))
    if "sleep" in text:
        monkeypatch.setattr(sanitizer, "_MOST_SECONDS", 1)
    sanitizer.run(Kit(tmp_path, interpreted=False), report)
    said = json.loads((tmp_path / "results.json").read_text())["part"]
    assert said["found"] == {"memcheck, one": found, "racecheck, one": found}
    assert bool(said.get("failures")) == found.startswith("errors")


def test_torch_is_beside_what_the_kernels_have_taken(tmp_path: Path, program: Program) -> None:
    first, second = peers._cases(90)[:2]
    with TorchPeer(program("python", WORKER), tmp_path / "log", 1, 1) as peer:
        assert peer.version == "torch 0"
        beside: dict[str, Any] = peers._beside(peer, first, {"us": 1.5})
        assert beside["us"] == 3 and beside["ours, us"] == 1.5 and beside["times as fast as torch"] == 2
        assert peers._beside(peer, second, {})["failed"] == f"torch: no {second.peer.work if second.peer else None}"


def test_cases_that_torch_compiles_come_last() -> None:
    kinds = [case.peer.name for case in peers._cases(90) if case.peer]
    assert kinds.index("torch.compile") == len(kinds) - kinds.count("torch.compile")
    assert len(set(kinds)) > 5


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_a_torch_without_a_gpu_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"torch ended, exit code 1: .*(CUDA|NVIDIA|torch)"):
        TorchPeer(Path(sys.executable), tmp_path / "log", 1, 1)


@pytest.mark.parametrize("tiny", [False, True])
def test_prompts_of_a_kit_fit_its_engines(tiny: bool) -> None:
    for name, network in networks(tiny=tiny).items():
        longest, flags = max(network.prompts), network.flags
        assert len(network.prompts) <= flags["max_batch_size"] and sum(network.prompts) <= flags["max_num_tokens"], name
        assert longest + sampling._TOKENS <= flags["max_seq_len"], name
        assert flags["max_seq_len"] % flags["tokens_per_block"] == 0, name


def test_wide_layers_have_every_tile_of_rows_and_contexts_of_two_splits() -> None:
    """Of a prompt in chunks, in other chunks, and whole: what `company` compares."""
    tiles = [most for most, _ in row_tiles("bf16")]
    for network in (each for name, each in networks(tiny=False).items() if name.startswith("broad")):
        steps = (*company._CHUNKS, network.prompts[0])
        chosen = {next(place for place, most in enumerate(tiles) if most is None or rows <= most) for rows in steps}
        assert chosen == set(range(len(tiles))) and network.prompts[0] > SPLIT_TOKENS
