"""Requests of a benchmark, and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request of a benchmark. `token_ids` None: only the text is known, and `num_tokens` is an estimate until the
    server says. `output_len`: the tokens asked for."""

    text: str | None
    token_ids: tuple[int, ...] | None
    num_tokens: int
    output_len: int


@dataclass(slots=True)
class Outcome:
    """How one request went. Times in seconds; `start` on the clock of time.perf_counter.

    `ttft`: from sending to the first token; `itl`: between one piece of output and the next, each one or more tokens;
    `latency`: from sending to the last piece. `error` None: every piece came. `refused`: the server answered that it
    does not take such a request.
    """

    prompt_len: int
    start: float
    output_tokens: int = 0
    ttft: float = 0.0
    latency: float = 0.0
    itl: list[float] = field(default_factory=list)
    text: str = ""
    error: str | None = None
    refused: bool = False

    def piece(self, now: float) -> None:
        """Note that output came at `now`."""
        elapsed = now - self.start
        if self.ttft:
            self.itl.append(elapsed - self.latency)
        else:
            self.ttft = elapsed
        self.latency = elapsed

    @property
    def pieces(self) -> int:
        """How many pieces of output came."""
        return len(self.itl) + 1 if self.ttft else 0

    @property
    def tpot(self) -> float:
        """Time per output token after the first; 0 for an output of one token."""
        return (self.latency - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0
