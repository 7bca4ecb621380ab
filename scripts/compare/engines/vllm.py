"""vLLM on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path

from compare.engines.base import WORKERS, Engine, Model, prepared_once, run_logged
from compare.offline.cells import Capacity, Precision
from compare.offline.worker_process import Command

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


class Vllm(Engine):
    name = "vllm"
    precisions = {"bf16": "bf16", "int8": "W8A8 (compressed-tensors), vocabulary in bf16"}  # noqa: RUF012

    def __init__(self, environment: Path) -> None:
        self._python = str(environment / "bin" / "python")

    def installed(self) -> bool:
        return Path(self._python).exists()

    def prepare(self, model: Model, precision: Precision) -> Path:
        if precision == "bf16":
            return model.directory
        folder = model.cache / "vllm"
        command = [sys.executable, str(WORKERS / "w8a8_checkpoint.py"), str(model.directory)]
        return prepared_once(
            folder / precision, lambda path: run_logged(Command([*command, str(path)]), folder / f"{precision}.log")
        )

    def worker(self, prepared: Path, model: Model, capacity: Capacity, threads: int) -> Command:
        kv_bytes = capacity.kv_tokens * model.shape.kv_bytes_per_token
        sizes = [str(threads), str(kv_bytes), str(capacity.users), str(capacity.length)]
        arguments = [self._python, str(WORKERS / "vllm_worker.py"), str(prepared), *sizes]
        return Command(arguments, {**ENVIRONMENT, "OMP_NUM_THREADS": str(threads)})

    def first_token(self, prepared: Path, prompt: str, threads: int) -> Command:
        arguments = [self._python, str(WORKERS / "vllm_first_token.py"), str(prepared), prompt]
        return Command(arguments, {**ENVIRONMENT, "OMP_NUM_THREADS": str(threads)})
