"""The ways from a client to the engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """`server`: which of the two servers answers, `backend`: what `inflight bench serve` calls its interface."""

    key: str
    title: str
    server: str
    backend: str


WITH_TRITON, EMBEDDED = "triton", "embedded"
WAYS = (
    Way("triton-grpc", "Triton, gRPC", WITH_TRITON, "triton"),
    Way("triton-shim", "shim before Triton", WITH_TRITON, "openai"),
    Way("embedded", "shim with the engine inside", EMBEDDED, "openai"),
)


@dataclass(frozen=True)
class Workload:
    """`clients` requests at once, each with a prompt of its own and `output` greedy tokens; end tokens ignored."""

    clients: int
    prompt: int
    output: int

    @property
    def tokens(self) -> int:
        return self.clients * self.output

    @property
    def kv_tokens(self) -> int:
        """Room for every sequence in blocks of up to 128 tokens, and some blocks over."""
        blocks = -(-(self.prompt + self.output) // 128)
        return (self.clients * blocks + 8) * 128
