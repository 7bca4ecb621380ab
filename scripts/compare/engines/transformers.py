"""transformers' own generate: one static batch, eager."""

from __future__ import annotations

from pathlib import Path

from compare.engines.base import WORKERS, Engine, Model
from compare.offline.cells import Capacity, Precision
from compare.offline.worker_process import Command


class Transformers(Engine):
    name = "transformers"
    precisions = {"bf16": "bf16"}  # noqa: RUF012

    def __init__(self, environment: Path) -> None:
        self._python = str(environment / "bin" / "python")

    def installed(self) -> bool:
        return Path(self._python).exists()

    def prepare(self, model: Model, precision: Precision) -> Path:
        return model.directory

    def worker(self, prepared: Path, model: Model, capacity: Capacity, threads: int) -> Command:
        return Command([self._python, str(WORKERS / "transformers_worker.py"), str(prepared), str(threads)])

    def first_token(self, prepared: Path, prompt: str, threads: int) -> Command:
        script = str(WORKERS / "transformers_first_token.py")
        return Command([self._python, script, str(prepared), prompt, str(threads)])
