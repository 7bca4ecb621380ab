"""What share of the memory's bandwidth decoding reaches in each format of weights: one user, one token a step.

PYTHONPATH=scripts .venv/bin/python -m compare.shares.formats
    [--shape NAME] [--formats NAME...] [--rounds 5] [--json FILE] [--models DIR] [--peers DIR] [--prepare]

The model is one of compare.shares.families, Llama unless it is said, or one of compare.shapes. Files in GGUF are made
by llama.cpp's own llama-quantize where it is installed (scripts/compare/cpu --install llama.cpp) and read as they are.
A share is of the bandwidth measured around the run and counts every byte of the weights and of the cache that a step
must read; a step also has work that reads nothing, which weighs the more the smaller the model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from compare.engines.base import Model, prepared_once
from compare.engines.inflight import sources_digest
from compare.engines.llama_cpp import LlamaCpp
from compare.offline.bounds import Shape
from compare.shapes import RANDOM_SHAPES
from compare.shapes import model_directory as shape_directory
from compare.shares.families import FAMILIES, LLAMA, measured, model_directory, opened
from compare.shares.float8_source import write_float8
from inflight.benchmark.machine import machine_facts
from inflight.benchmark.machine_limits import MachineLimits, measure_limits
from inflight.benchmark.offline.latency import Workload
from inflight.benchmark.offline.steps import StepTimer
from inflight.files.cache import user_cache_dir
from inflight.machine.resources import usable_cores

SCHEMES: dict[str, list[str]] = {
    "bfloat16": [],
    "int8_wo": ["--quantize", "int8_wo"],
    "int8_w8a8": ["--quantize", "int8_w8a8"],
    "int4_w4a8, groups of 16": ["--quantize", "int4_w4a8", "--group-size", "16"],
    "int4_w4a8, groups of 32": ["--quantize", "int4_w4a8", "--group-size", "32"],
    "int4_wo, groups of 32": ["--quantize", "int4_wo", "--group-size", "32"],
    "nf4": ["--quantize", "nf4"],
    "fp8_rowwise": ["--quantize", "fp8_rowwise", "--calib-size", "1"],
}
# A source that is quantized already, whose numbers are kept.
FLOAT8_BLOCKS = "FP8 in blocks of 128"
GGUF_TYPES = ("Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS")
DECODE = Workload(1, 4, 64)


def prepared_model(shape: str, models: Path) -> Model:
    """The random model, written once, and where its engines are kept."""
    if shape in FAMILIES:
        directory, cache = model_directory(shape, models), models / f"family-{shape}-formats"
    else:
        directory, cache = shape_directory(shape, models), models / f"{shape}-formats"
    cache.mkdir(parents=True, exist_ok=True)
    return Model(directory, Shape.read(directory), cache)


def engine_directory(name: str, model: Model, llama_cpp: Path) -> Path:
    """Converted and built from this tree, once for a state of its sources."""
    key = name.replace(", groups of ", "-").replace(" ", "-")
    engine = model.cache / "format-engines" / f"{key}-{sources_digest('convert', 'build')}"
    inflight, limits = Path(sys.executable).with_name("inflight"), ("--max-batch-size", "4", "--max-seq-len", "1024")

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=model.cache) as scratch:
            checkpoint, source = Path(scratch) / "checkpoint", Path(scratch) / "source"
            convert: list[str | Path]
            if name == FLOAT8_BLOCKS:
                source.mkdir()
                write_float8(model.directory, source)
                convert = [source]
            elif name in SCHEMES:
                convert = [model.directory, *SCHEMES[name]]
            else:
                convert = [LlamaCpp(llama_cpp, types={"int4": name}).prepare(model, "int4")]
            build = ["build-engine", "--checkpoint-dir", checkpoint, "--output-dir", target, *limits]
            for command in (["convert", *convert, "-o", checkpoint], build):
                subprocess.run(list(map(str, [inflight, *command])), check=True, stdout=subprocess.DEVNULL)

    return prepared_once(engine, make)


def measure(timers: dict[str, StepTimer], limits: MachineLimits, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Of each format the share of the bandwidth and the tokens a second, one for each round."""
    rng = np.random.default_rng()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in timers}
    for turn in range(rounds + 1):
        for name, timer in timers.items():
            decode = measured(timer, DECODE, limits, rng).decode
            if turn:  # the first round touches every page
                found[name].append((decode.share_of_limit or 0.0, decode.tokens_per_second))
    return found


def table(found: dict[str, list[tuple[float, float]]], bytes_read: dict[str, int]) -> str:
    lines = [
        "| format | MB a token | decode, tok/s | of the bandwidth | least, most |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for name, pairs in found.items():
        shares, rates = [share for share, _ in pairs], [rate for _, rate in pairs]
        spread = f"{min(shares):.0%}, {max(shares):.0%}"
        middle = f"{statistics.median(rates):.0f} | {statistics.median(shares):.0%}"
        lines.append(f"| {name} | {bytes_read[name] / 1e6:.0f} | {middle} | {spread} |")
    return "\n".join(lines)


def main() -> None:
    own = [*SCHEMES, FLOAT8_BLOCKS]
    names = [*own, *GGUF_TYPES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes = (*FAMILIES, *RANDOM_SHAPES)
    parser.add_argument("--shape", choices=shapes, default=LLAMA, metavar="NAME", help=", ".join(shapes))
    parser.add_argument("--formats", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=Path, default=user_cache_dir() / "bench")
    parser.add_argument("--peers", type=Path, default=user_cache_dir() / "bench-peers", help="where they are installed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--prepare", action="store_true", help="only build the engines, and stop")
    options = parser.parse_args()
    llama_cpp = options.peers / "llama.cpp"
    formats = [name for name in options.formats if name in own or LlamaCpp(llama_cpp).installed()]
    model = prepared_model(options.shape, options.models)
    engines = {name: engine_directory(name, model, llama_cpp) for name in formats}
    if options.prepare:
        return
    with opened(engines) as timers:
        limits = measure_limits(usable_cores())
        found = measure(timers, limits, options.rounds)
        bytes_read = {name: timer.manifest.work.weight_bytes_per_step for name, timer in timers.items()}
    print(f"reading {limits.read / 1e9:.1f} GB/s at first, {limits.peaks_text}")
    print(table(found, bytes_read), flush=True)
    if options.json:
        record: dict[str, Any] = {
            "machine": machine_facts(),
            "shape": options.shape,
            "limits": limits.as_dict(),
            "formats": found,
        }
        options.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
