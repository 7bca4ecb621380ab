"""What is measured: the workloads, the precisions, and what is wanted of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["bf16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("bf16", "int8", "int4")

# throughput: seconds of one call of a loaded engine; first_token: a new process; memory: the most a process held.
Kind = Literal["throughput", "first_token", "memory"]


@dataclass(frozen=True)
class Cell:
    """One workload: `users` prompts of `prompt` random tokens each, `output` greedy tokens each.

    `counted` is the number of tokens by which a speed is told, None where seconds (or bytes) are told. `targets` is
    the wanted ratio of the best peer's seconds (bytes) to inflight's; `shares` the wanted share of the machine's limit.
    """

    key: str
    title: str
    kind: Kind
    users: int
    prompt: int
    output: int
    targets: dict[Precision, float]
    shares: dict[Precision, float]
    counted: int | None = None

    def fitted(self, max_length: int) -> Cell:
        """The same cell with a prompt that a model of `max_length` positions can take."""
        prompt = min(self.prompt, max_length - self.output)
        title = self.title.replace(f"{self.prompt:,}", f"{prompt:,}")
        return Cell(**{**vars(self), "prompt": prompt, "title": title})


def _same(ratio: float) -> dict[Precision, float]:
    return dict.fromkeys(PRECISIONS, ratio)


_MANY: dict[Precision, float] = {"bf16": 1.25, "int8": 2.0, "int4": 1.9}
CELLS = (
    Cell(
        "prefill", "prefill of 512, tok/s", "throughput", 1, 512, 1,
        {"bf16": 1.12, "int8": 1.8, "int4": 1.7}, {"bf16": 0.88}, counted=512,
    ),
    Cell(
        "decode", "decode, 1 user, tok/s", "throughput", 1, 4, 64,
        {"bf16": 1.05, "int8": 1.25, "int4": 1.5}, {"bf16": 0.90}, counted=64,
    ),
    Cell("users16", "16 users, 128 in + 64 out, s", "throughput", 16, 128, 64, _MANY, {}),
    Cell("users32", "32 users, 128 in + 64 out, s", "throughput", 32, 128, 64, _MANY, {}),
    Cell("memory", "peak memory after 32 users, MiB", "memory", 32, 128, 64, _same(1.0), {}),
    Cell("long", "prompt of 4,096, then 64, s", "throughput", 1, 4096, 64, _same(1.3), {}),
    Cell("first-token", "command to first token, s", "first_token", 1, 4, 1, _same(3.0), {}),
)  # fmt: skip


@dataclass(frozen=True)
class Capacity:
    """What a worker must have room for, the same for every engine."""

    users: int
    length: int
    kv_tokens: int


# 32 sequences of 192 tokens in blocks of 128 tokens (the largest that an engine has), and some blocks over.
KV_TOKENS = 9216


def capacity(cells: tuple[Cell, ...]) -> Capacity:
    return Capacity(max(cell.users for cell in cells), max(cell.prompt + cell.output for cell in cells), KV_TOKENS)
