"""inflight itself, from the tree that this script lies in."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from compare.engines.base import WORKERS, Engine, Model, prepared_once, run_logged
from compare.engines.llama_cpp import LlamaCpp
from compare.offline.cells import Capacity, Precision
from compare.offline.worker_process import Command

ROOT = Path(__file__).resolve().parents[3]
# Rounded to nearest: the levels of random weights say nothing, and calibrated ones lie in the same bytes.
SCHEMES: dict[Precision, str] = {"int8": "int8_w8a8", "int4": "int4_w4a8"}
# That of the calibrated schemes.
INT4_GROUP = 16
WIDE_ROWS: dict[Precision, str] = {"int8": "int8_wo", "int4": "int4_wo"}


class Inflight(Engine):
    """`kv_cache_dtype` "auto" (bfloat16) or "int8"; `schemes` what --quantize gets for a precision."""

    def __init__(
        self, name: str = "inflight", schemes: Mapping[Precision, str] = SCHEMES, kv_cache_dtype: str = "auto"
    ) -> None:
        self.name, self._schemes, self._kv_cache_dtype = name, schemes, kv_cache_dtype
        self.precisions = {"bf16": "bf16", **schemes}

    def installed(self) -> bool:
        return True

    def prepare(self, model: Model, precision: Precision) -> Path:
        """An engine per state of the sources that make engines: a change of a kernel builds anew."""
        folder = model.cache / "inflight"
        quantize = ["--quantize", self._schemes[precision]] if precision in self._schemes else []
        if precision == "int4":
            quantize += ["--group-size", str(INT4_GROUP)]
        name = f"checkpoint-{'-'.join(quantize[1::2]) or precision}"
        return self._built(folder, precision, name, [str(model.directory), *quantize])

    def _built(self, folder: Path, precision: Precision, checkpoint_name: str, convert: Sequence[str]) -> Path:
        """The engine of what `inflight convert` makes of these arguments."""
        log = folder / f"{precision}.log"
        checkpoint = prepared_once(
            folder / f"{checkpoint_name}-{sources_digest('convert')}",
            lambda path: run_logged(_inflight("convert", *convert, "-o", str(path)), log),
        )
        build = ["build-engine", "--checkpoint-dir", str(checkpoint), "--kv-cache-dtype", self._kv_cache_dtype]
        return prepared_once(
            folder / f"{self.name}-{precision}-{sources_digest('convert', 'build')}",
            lambda path: run_logged(_inflight(*build, "--output-dir", str(path)), log),
        )

    def worker(self, prepared: Path, model: Model, capacity: Capacity, threads: int) -> Command:
        script = str(WORKERS / "inflight_worker.py")
        return Command([sys.executable, script, str(prepared), str(threads), str(capacity.kv_tokens)])

    def first_token(self, prepared: Path, prompt: str, threads: int) -> Command:
        flags = ["--max-tokens", "1", "--temperature", "0", "--ignore-eos", "--keep-special-tokens"]
        return _inflight("generate", str(prepared), prompt, *flags, "--threads", str(threads))


class InflightOfGguf(Inflight):
    """The very files that llama.cpp is measured with, read as they are."""

    def __init__(self, name: str, files: LlamaCpp) -> None:
        super().__init__(name)
        self._files, self.precisions = files, files.precisions

    def installed(self) -> bool:
        return self._files.installed()

    def prepare(self, model: Model, precision: Precision) -> Path:
        file = self._files.prepare(model, precision)
        return self._built(model.cache / "inflight", precision, f"checkpoint-{file.stem}", [str(file)])


def _inflight(*arguments: str) -> Command:
    return Command([str(Path(sys.executable).with_name("inflight")), *arguments])


def sources_digest(*folders: str) -> str:
    """Of the sources below these folders of the project."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".h"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
