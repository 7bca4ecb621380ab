"""llama.cpp, built for this machine; a small driver (workers/llama_worker.cpp) asks its library for greedy tokens."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from compare.engines.base import WORKERS, Engine, Model, prepared_once, run_logged
from compare.offline.cells import Capacity, Precision
from compare.offline.worker_process import Command

# As llama-quantize makes them: the vocabulary projection in 6 or 8 bits.
TYPES: dict[Precision, str] = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
BETTER_TYPES: dict[Precision, str] = {"int4": "Q4_K_M"}


class LlamaCpp(Engine):
    """`types`: of the file, for every precision that is measured."""

    def __init__(self, home: Path, name: str = "llama.cpp", types: Mapping[Precision, str] = TYPES) -> None:
        self.name, self.precisions = name, types
        self._home, self._bin = home, home / "build" / "bin"

    def installed(self) -> bool:
        return (self._bin / "inflight-bench-worker").exists()

    def prepare(self, model: Model, precision: Precision) -> Path:
        folder = model.cache / "llama.cpp"
        log = folder / f"{precision}.log"
        convert = [
            sys.executable,
            str(WORKERS / "gguf_convert.py"),
            str(self._home / "src"),
            str(self._home / "modules"),
        ]
        whole = prepared_once(
            folder / "bf16.gguf",
            lambda path: run_logged(Command([*convert, str(model.directory), str(path)]), log),
        )
        if precision == "bf16":
            return whole
        quantize, kind = [str(self._bin / "llama-quantize"), str(whole)], self.precisions[precision]
        return prepared_once(
            folder / f"{kind}.gguf",
            lambda path: run_logged(Command([*quantize, str(path), kind]), log),
        )

    def worker(self, prepared: Path, model: Model, capacity: Capacity, threads: int) -> Command:
        """It makes room for each request's own form, so `capacity` says nothing to it."""
        return Command([str(self._bin / "inflight-bench-worker"), str(prepared), str(threads)])

    def first_token(self, prepared: Path, prompt: str, threads: int) -> Command:
        # Of one token alone it often ends before its writing thread has printed it; the first byte is what is timed. By
        # default it clears a cache for the longest context that the model was made for, which takes seconds.
        flags = ["-n", "4", "-c", "2048", "--temp", "0", "-no-cnv", "--no-warmup", "--no-display-prompt"]
        return Command(
            [str(self._bin / "llama-completion"), "-m", str(prepared), "-p", prompt, "-t", str(threads), *flags]
        )
