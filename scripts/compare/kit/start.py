"""DIR/run of a kit: unpacks engines, kernels and the packages for this Python, then runs the parts in order, each in a
process of its own with its own time limit. Needs Python 3.10 or later and nothing else.

Every part writes what it has found after each finding, to results/PART.json; results/run.json says how each ended. A
part that fails, hangs or kills its process does not stop the next.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    facts = json.loads((HERE / "kit.json").read_text())
    parser = argparse.ArgumentParser(prog="run", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=[part["name"] for part in facts["parts"]], help="these parts")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where results go (%(default)s)")
    parser.add_argument(
        "--interpreted",
        metavar="PATHS",
        help="the rehearsal: Triton's interpreter in place of the GPU. PATHS, with ':' between them, are a checkout of"
        " inflight and the folder in which triton and torch are installed",
    )
    arguments = parser.parse_args()
    site, kit = _unpack()
    if site is None or kit is None:
        return 1
    borrowed = arguments.interpreted.split(":") if arguments.interpreted else []
    paths = [str(site), *borrowed, str(HERE / "stand_in")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONNOUSERSITE": "1"}
    arguments.out.mkdir(parents=True, exist_ok=True)
    ends: dict[str, dict[str, object]] = {}
    for part in facts["parts"]:
        if arguments.only and part["name"] not in arguments.only:
            continue
        limit = part["seconds"] * (20 if borrowed else 1)
        ends[part["name"]] = _run(part["name"], limit, kit, arguments.out, bool(borrowed), environment)
        _write(arguments.out / "run.json", ends)
        print(f"{part['name']}: {ends[part['name']]}", flush=True)
    return 0 if all(end["ended"] == "ok" for end in ends.values()) else 1


def _unpack() -> tuple[Path | None, Path | None]:
    """The folders of this Python's packages, and of engines and kernels, which are made the first time."""
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    index = json.loads((HERE / "packages.json").read_text())
    if tag not in index:
        pythons = ", ".join(sorted(index.keys() - {"kit"}))
        print(f"The kit has packages for {pythons}; this Python is {tag}. Set PYTHON to one of them,"
              " or make the kit with --pythons.", file=sys.stderr)  # fmt: skip
        return None, None
    with zipfile.ZipFile(HERE / "packages.zip") as archive:
        site, kit = (_extract(archive, index[name], HERE / "unpacked" / name) for name in (tag, "kit"))
    return site, kit


def _extract(archive: zipfile.ZipFile, files: dict[str, str], folder: Path) -> Path:
    if not (folder / "complete").exists():
        for name, digest in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(digest))
        (folder / "complete").touch()
    return folder


def _run(
    name: str, limit: float, kit: Path, out: Path, interpreted: bool, environment: dict[str, str]
) -> dict[str, object]:
    command = [sys.executable, "-m", "compare.kit.parts", name, "--kit", str(kit), "--out", str(out / f"{name}.json")]
    start, log = time.monotonic(), out / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *(["--interpreted"] if interpreted else [])],
            stdout=output, stderr=output, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(limit)
            ended = "ok" if status == 0 else f"status {status}: {_last_line(log)}"
        except subprocess.TimeoutExpired:
            ended = f"cut off after {limit} s"
        except KeyboardInterrupt:
            ended = "interrupted"
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return {"ended": ended, "seconds": round(time.monotonic() - start, 1)}


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _write(path: Path, facts: object) -> None:
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(facts, indent=1) + "\n")
    os.replace(scratch, path)


if __name__ == "__main__":
    sys.exit(main())
