"""OpenVINO GenAI, continuous batching on the CPU plugin.

Weights: fp16, which the plugin turns into bfloat16 where the machine computes in it; int8; int4 as the exporter has it
by default (groups of 128 with zero points, the vocabulary's weights in int8). Its defaults stay (8-bit KV cache, rows
quantized in groups of 32 where that helps): a bfloat16 cache and other groups were tried and were slower or the same.
"""

from __future__ import annotations

from pathlib import Path

from compare.engines.base import WORKERS, Engine, Model, prepared_once, run_logged
from compare.offline.cells import Capacity, Precision
from compare.offline.worker_process import Command

EXPORT: dict[Precision, list[str]] = {
    "bf16": ["--weight-format", "fp16"],
    "int8": ["--weight-format", "int8"],
    "int4": ["--weight-format", "int4"],
}


class OpenVino(Engine):
    name = "openvino"
    precisions = {"bf16": "fp16 weights, bf16 products", "int8": "int8", "int4": "int4, its default"}  # noqa: RUF012

    def __init__(self, environment: Path) -> None:
        self._bin = environment / "bin"

    def installed(self) -> bool:
        return (self._bin / "optimum-cli").exists()

    def prepare(self, model: Model, precision: Precision) -> Path:
        folder = model.cache / "openvino"
        task = ["--task", "text-generation-with-past", "--model", str(model.directory)]
        command = [str(self._bin / "optimum-cli"), "export", "openvino", *task, *EXPORT[precision]]
        return prepared_once(
            folder / precision,
            lambda path: run_logged(Command([*command, str(path)]), folder / f"{precision}.log"),
        )

    def worker(self, prepared: Path, model: Model, capacity: Capacity, threads: int) -> Command:
        script = str(WORKERS / "openvino_worker.py")
        sizes = [str(threads), str(capacity.kv_tokens), str(capacity.users)]
        return Command([str(self._bin / "python"), script, str(prepared), *sizes])

    def first_token(self, prepared: Path, prompt: str, threads: int) -> Command:
        script = str(WORKERS / "openvino_first_token.py")
        return Command([str(self._bin / "python"), script, str(prepared), prompt, str(threads)])
