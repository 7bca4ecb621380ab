"""The kit of the cuda target (scripts/compare/cuda --bundle): its rehearsal, and what it says where it cannot run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.paths import ROOT

pytest.importorskip("triton", reason="pip install 'inflight-llm[cuda-compile]'")

pytestmark = pytest.mark.kernel

ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TRITON_INTERPRET")}


def make(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "compare.gpu.run", *map(str, arguments)]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT / "scripts")}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--pythons", "newest"), "a version is 3.12 or cp312"), (("--sm", "75"), "sm_75 is not one")],
)
def test_what_no_kit_can_be_made_of_is_said(tmp_path: Path, arguments: tuple[str, str], message: str) -> None:
    result = make("--bundle", tmp_path / "kit", *arguments)
    assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "kit").exists()


@pytest.mark.slow
def test_the_rehearsal_passes_in_another_environment(tmp_path: Path) -> None:
    """Packages, engines and parts are the kit's; the interpreter in place of the GPU is this environment's."""
    result = make("--bundle", tmp_path / "kit", "--pythons", "here", "--tiny")
    assert result.returncode == 0, result.stderr
    venv.create(tmp_path / "other", with_pip=False)
    packages = next(path for path in map(Path, sys.path) if (path / "triton").is_dir())
    started = subprocess.run(
        [tmp_path / "kit" / "run", "--interpreted", f"{ROOT}:{packages}"],
        env={**ENVIRONMENT, "PYTHON": str(tmp_path / "other" / "bin" / "python")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    found = json.loads((tmp_path / "kit" / "results" / "results.json").read_text())
    assert started.returncode == 0, f"{started.stdout}{started.stderr}"
    parts = {"machine", "tokens", "company", "sampling", "steps", "network", "kernels", "peers", "sanitizer"}
    assert set(found) == parts
    for name, part in found.items():
        assert part["ended"] == "ok" and part["found"] and not part["failures"], name
    _assert_told_apart(tmp_path / "kit", tmp_path / "other" / "bin" / "python", packages)


def _assert_told_apart(kit: Path, python: Path, packages: Path) -> None:
    """Wrong logits are a failure of that engine; the next one and the next part still run. Two engines are left."""
    wrong, right, *others = sorted((kit / "unpacked" / "kit" / "engines").glob("*.npy"))
    for other in others:
        shutil.rmtree(other.with_suffix(""))
    data = bytearray(wrong.read_bytes())
    data[-64:] = bytes(64)
    wrong.write_bytes(data)
    options = ["--interpreted", f"{ROOT}:{packages}", "--only", "tokens", "kernels", "--out", str(kit / "again")]
    environment = {**ENVIRONMENT, "PYTHON": str(python)}
    result = subprocess.run([str(kit / "run"), *options], env=environment, capture_output=True, text=True)
    found = json.loads((kit / "again" / "results.json").read_text())
    assert result.returncode == 1 and found["kernels"]["ended"] == "ok"
    (failure,) = found["tokens"]["failures"]
    assert failure.startswith(f"{wrong.stem}: an error of") and set(found["tokens"]["found"]) == {
        wrong.stem,
        right.stem,
    }
