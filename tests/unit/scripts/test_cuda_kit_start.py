"""DIR/run of a kit (scripts/compare/kit/start.py): whatever its parts do, what was found is kept, the next one runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from tests.patience import eventually

sys.path.append(str(ROOT / "scripts"))
from compare.kit.packages import HERE, KIT, PackageStore, tag_of

pytestmark = pytest.mark.unit

SCRIPTS = ROOT / "scripts" / "compare" / "kit"
# In place of the real parts: what a part's name says. `found` has the engine before anything else happens.
PARTS = """
import json, os, sys, time
from pathlib import Path
name, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
engine, out = options.get("--engine", "all"), Path(options["--out"])
results = json.loads(out.read_text())
results[name]["found"][engine] = os.getcwd()
out.write_text(json.dumps(results))
print("began", flush=True)
if engine == "a" and name == "hangs" or name == "waits":
    time.sleep(600)
if engine == "a" and name == "dies":
    os.kill(os.getpid(), 9)
if name == "raises":
    raise RuntimeError("the cause")
"""


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    kit = tmp_path / "kit"
    kit.mkdir()
    store = PackageStore(kit)
    store.add(tag_of(HERE), "compare/kit/parts/__main__.py", PARTS.encode())
    for engine in "ab":
        store.add(KIT, f"engines/{engine}/manifest.json", b"{}")
    store.close()
    for name in ("run", "start.py"):
        shutil.copy2(SCRIPTS / name, kit / name)
    return kit


def command(kit: Path, parts: dict[str, tuple[float, str]], *options: str) -> list[str]:
    listed = [{"name": name, "seconds": seconds, "of": of, "rehearsed": None} for name, (seconds, of) in parts.items()]
    (kit / "kit.json").write_text(json.dumps({"parts": listed}))
    return [str(kit / "run"), *options]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)


def results(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


def test_what_fails_hangs_or_dies_loses_nothing(kit: Path) -> None:
    limits = {"raises": (60.0, ""), "hangs": (6.0, "engines"), "dies": (60.0, "engines"), "works": (60.0, "")}
    ran = run(command(kit, limits))
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    found = results(kit / "results")
    assert found["raises"]["ended"] == "status 1: RuntimeError: the cause"
    assert found["hangs"]["ended"] == "a: cut off after 3 s" and found["dies"]["ended"] == "a: status -9: began"
    assert found["works"]["ended"] == "ok"
    assert [set(found[name]["found"]) for name in limits] == [{"all"}, {"a", "b"}, {"a", "b"}, {"all"}]
    assert (kit / "results" / "log.txt").read_text().count("began") == 6


def test_a_kit_works_that_lost_its_mode_bits_and_cannot_be_written_to(kit: Path, tmp_path: Path) -> None:
    ordered = ["bash", *command(kit, {"works": (60.0, "")})]
    (kit / "run").chmod(0o644)
    # No folder can be made in place of a file, not even by root.
    for name in ("unpacked", "results"):
        (kit / name).touch()
    ran = subprocess.run(
        ordered, env={**os.environ, "PYTHON": sys.executable}, cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    found = results(tmp_path / "kit-results")
    assert found["works"]["ended"] == "ok"
    # What was unpacked elsewhere is taken away again.
    assert not Path(found["works"]["found"]["all"]).exists()


def test_a_newer_kit_over_an_older_one_is_unpacked_again(kit: Path) -> None:
    ordered = command(kit, {"works": (60.0, "")}, "--out", str(kit / "out"))
    assert run(ordered).returncode == 0
    store = PackageStore(kit)
    store.add(tag_of(HERE), "compare/kit/parts/__main__.py", b"raise SystemExit(3)")
    store.add(KIT, "engines/a/manifest.json", b"{}")
    store.close()
    assert run(ordered).returncode == 1
    assert results(kit / "out")["works"]["ended"].startswith("status 3")


def test_a_run_that_is_ended_ends_its_part_and_says_so(kit: Path) -> None:
    ordered = command(kit, {"waits": (600.0, ""), "works": (60.0, "")})
    ran = subprocess.Popen(ordered, env={**os.environ, "PYTHON": sys.executable}, stdout=subprocess.DEVNULL)
    log = kit / "results" / "log.txt"
    assert eventually(lambda: log.exists() and b"began" in log.read_bytes())
    ran.send_signal(signal.SIGTERM)
    assert ran.wait() == 130
    found = results(kit / "results")
    assert found["waits"]["ended"] == "interrupted" and found["waits"]["found"] and "works" not in found


@pytest.mark.parametrize("damage", ["archive", "python"])
def test_a_kit_that_cannot_run_says_why(kit: Path, damage: str) -> None:
    ordered = command(kit, {"works": (60.0, "")})
    if damage == "archive":
        data = (kit / "packages.zip").read_bytes()
        (kit / "packages.zip").write_bytes(data[: len(data) // 2])
    else:
        (kit / "packages.json").write_text(json.dumps({"cp39": {}, "kit": {}}))
    ran = run(ordered)
    said = "copy the kit again" if damage == "archive" else "The kit has packages for cp39; this Python is"
    assert ran.returncode == 1 and said in ran.stderr and "Traceback" not in ran.stderr
