"""DIR/run of a kit: unpacks engines, kernels and the packages for this Python, then runs the parts in order, in
processes of their own with a time limit for each. Needs Python and nothing else.

Each finding is written to results.json at once, and how each part ended; what was printed is in log.txt. A part that
fails, hangs or kills its process does not stop the next one, nor does an engine of a part stop the next engine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Under the interpreter everything takes longer by more than this.
_REHEARSAL = 20
# Characters of the last line of what a process printed.
_SHOWN = 200


def main() -> int:
    facts = json.loads((HERE / "kit.json").read_text())
    parser = argparse.ArgumentParser(prog="run", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=[part["name"] for part in facts["parts"]], help="these parts")
    parser.add_argument("--out", type=Path, help="where results go (results in the kit, if that can be written to)")
    parser.add_argument("--usable", action="store_true", help="only say whether this Python can run the parts")
    parser.add_argument(
        "--interpreted",
        metavar="PATHS",
        help="the rehearsal: Triton's interpreter in place of the GPU. PATHS, with ':' between them, are a checkout of"
        " inflight and the folder in which triton and torch are installed",
    )
    arguments = parser.parse_args()
    if (problem := _problem()) or arguments.usable:
        print(problem or "This Python can.", file=sys.stderr)
        return 1 if problem else 0
    # A server that ends a command asks for it in this way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        try:
            site, kit = _unpack(stack)
            out = _made(arguments.out or HERE / "results", Path.cwd() / "kit-results")
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, _lzma_error()) as error:
            print(f"The kit cannot be unpacked: {error}. Free space there, or copy the kit again.", file=sys.stderr)
            return 1
        print(f"Results go to {out}.", flush=True)
        parts = [part for part in facts["parts"] if not arguments.only or part["name"] in arguments.only]
        return Parts(site, kit, out, arguments.interpreted or "").run(parts)


class Parts:
    """How parts are run. `borrowed`: the folders of a rehearsal, or ""."""

    def __init__(self, site: Path, kit: Path, out: Path, borrowed: str) -> None:
        self._site, self._kit = site, kit
        self._results, self._log = out / "results.json", out / "log.txt"
        self._rehearses = bool(borrowed)
        paths = [
            str(site),
            *(str(Path(path).resolve()) for path in borrowed.split(":") if path),
            str(HERE / "stand_in"),
        ]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONNOUSERSITE": "1"}
        self._environment["PYTHONUNBUFFERED"] = "1"

    def run(self, parts: list[dict[str, Any]]) -> int:
        self._results.write_text("{}\n")
        self._log.write_bytes(b"")
        ended = []
        for part in parts:
            try:
                ended.append(self._part(part))
            except KeyboardInterrupt:
                self._note(part["name"], ended="interrupted")
                print(f"Interrupted amid {part['name']}.", flush=True)
                return 130
        return 0 if all(ended) else 1

    def _part(self, part: dict[str, Any]) -> bool:
        """Whether all of it ended well. Of several engines, one that hangs leaves the others half of the time."""
        name, start = part["name"], time.monotonic()
        limit = part["seconds"] * (_REHEARSAL if self._rehearses else 1)
        engines = self._engines(part)
        self._note(name, ended="under way", found={}, failures=[])
        ends = []
        for engine in engines:
            left = start + limit - time.monotonic()
            ends.append(self._process(name, engine, min(left, limit / 2 if engine else left)))
        bad = [f"{engine}: {end}" if engine else end for engine, end in zip(engines, ends, strict=True) if end != "ok"]
        section = self._note(name, ended="; ".join(bad) or "ok", seconds=round(time.monotonic() - start, 1))
        print(f"{name}: {section['ended']}, {section['seconds']} s", flush=True)
        for failure in section["failures"]:
            print(f"  {failure}", flush=True)
        return not bad

    def _engines(self, part: dict[str, Any]) -> list[str]:
        """[""] for a part that looks at all at once."""
        if not part["of"]:
            return [""]
        names = sorted(path.name for path in (self._kit / part["of"]).iterdir() if path.is_dir())
        return names[: part["rehearsed"]] if self._rehearses else names

    def _process(self, name: str, engine: str, limit: float) -> str:
        if limit <= 0:
            return "no time was left"
        # Without `site`, so that nothing that is installed here is met; from its own folder, which -m looks into first.
        command = [sys.executable, "-S", "-m", "compare.kit.parts", name, "--kit", str(self._kit)]
        command += ["--out", str(self._results), *(["--engine", engine] if engine else [])]
        with self._log.open("ab") as log:
            log.write(f"== {name} {engine}\n".encode())
            log.flush()
            begin = log.tell()
            process = subprocess.Popen(
                [*command, *(["--interpreted"] if self._rehearses else [])],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment, cwd=self._site,
                start_new_session=True,
            )  # fmt: skip
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                return f"cut off after {limit:.0f} s"
            finally:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        return "ok" if status == 0 else f"status {status}: {self._last_line(begin)}"

    def _last_line(self, begin: int) -> str:
        lines = self._log.read_bytes()[begin:].decode(errors="replace").strip().splitlines()
        return lines[-1][:_SHOWN] if lines else "it said nothing"

    def _note(self, name: str, **facts: Any) -> dict[str, Any]:
        """Into the part's section of the results, which its processes write as well: one at a time."""
        results = json.loads(self._results.read_text())
        section = results.setdefault(name, {"failures": []})
        section.update(facts)
        scratch = self._results.with_suffix(".new")
        scratch.write_text(json.dumps(results, indent=1) + "\n")
        os.replace(scratch, self._results)
        return dict(section)


def _problem() -> str | None:
    """Why this Python cannot run the parts."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"The kit is for Linux on x86-64; this is {platform.system()} on {platform.machine()}."
    pythons = sorted(json.loads((HERE / "packages.json").read_text()).keys() - {"kit"})
    if _tag() not in pythons:
        return (
            f"The kit has packages for {', '.join(pythons)}; this Python is {_tag()}. Set PYTHON to one of them, or"
            " make the kit with --pythons."
        )
    try:
        import lzma  # noqa: F401
    except ImportError:
        return f"{sys.executable} was built without lzma, which unpacks the kit. Set PYTHON to another Python."
    return None


def _tag() -> str:
    return f"cp{sys.version_info[0]}{sys.version_info[1]}"


def _lzma_error() -> type[Exception]:
    import lzma

    return lzma.LZMAError


def _made(folder: Path, otherwise: Path) -> Path:
    """A folder that can be written to: this one, if it can be."""
    for place in (folder, otherwise):
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return place.resolve()
    raise OSError(f"neither {folder} nor {otherwise} can be written to")


def _unpack(stack: contextlib.ExitStack) -> tuple[Path, Path]:
    """The folders of this Python's packages, and of engines and kernels: made in the kit the first time, or each time
    in a temporary folder where the kit cannot be written to."""
    index = json.loads((HERE / "packages.json").read_text())
    scratch = Path(tempfile.mkdtemp(prefix="inflight-kit-"))
    stack.callback(shutil.rmtree, scratch, ignore_errors=True)
    folder = _made(HERE / "unpacked", scratch)
    with zipfile.ZipFile(HERE / "packages.zip") as archive:
        site, kit = (_extract(archive, index[name], folder / name) for name in (_tag(), "kit"))
    return site, kit


def _extract(archive: zipfile.ZipFile, files: dict[str, str], folder: Path) -> Path:
    """`complete` says of which files: a newer kit over an older one is unpacked again."""
    complete, wanted = folder / "complete", json.dumps(files, sort_keys=True)
    if not complete.exists() or complete.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        for name, digest in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(digest))
        complete.write_text(wanted)
    return folder


if __name__ == "__main__":
    sys.exit(main())
