"""Memory that kernels touch outside of their arrays, and races within a block: what NVIDIA's compute-sanitizer says of
the part `tokens`, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from compare.kit.parts.report import Report
from compare.kit.parts.steppers import Kit

# Where CUDA's toolkit is when it is not on the path.
_TOOLKIT = "/usr/local/cuda/bin"
_TOOLS = ("memcheck", "racecheck")
# Everything takes many times as long: one network of each kind.
_ENGINES = ("qwen3-bfloat16", "llama-fp8", "mixture-bfloat16", "latent-bfloat16", "qwen3-int4")
_FOUND = 86
_MOST_SECONDS, _LINES = 20, 6


def run(kit: Kit, report: Report) -> None:
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=_TOOLKIT)
    if kit.interpreted or program is None:
        report.add("compute-sanitizer", "it is not installed" if program is None else "it needs a GPU")
        return
    for name in _ENGINES:
        for tool in _TOOLS:
            text = _checked([program, "--tool", tool, "--error-exitcode", str(_FOUND)], kit, name)
            report.add(f"{tool}, {name}", text or "nothing")
            if text.startswith("errors"):
                report.fail(f"{tool}, {name}: {text}")


def _checked(command: list[str], kit: Kit, engine: str) -> str:
    """What is wrong with the part of an engine; nothing: "". Errors that the tool found begin with that word."""
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "results.json"
        results.write_text("{}")
        part = [sys.executable, "-S", "-m", "compare.kit.parts", "tokens", "--engine", engine]
        part += ["--kit", str(kit.directory), "--out", str(results)]
        try:
            ended = subprocess.run([*command, *part], capture_output=True, text=True, timeout=_MOST_SECONDS)
        except subprocess.TimeoutExpired:
            return f"not ended after {_MOST_SECONDS} s"
    lines = [line for line in f"{ended.stdout}{ended.stderr}".splitlines() if line.strip("= ")]
    said = " | ".join(line.strip() for line in lines[:_LINES])
    print("\n".join(lines))
    if ended.returncode == _FOUND:
        return f"errors: {said}"
    return "" if ended.returncode == 0 else f"status {ended.returncode}: {said}"
