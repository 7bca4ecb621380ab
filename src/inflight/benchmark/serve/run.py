"""Sends the requests on schedule, and measures the processor time of this process."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from inflight.benchmark.serve.clients.base import Client
from inflight.benchmark.serve.options import ServeBenchOptions
from inflight.benchmark.serve.requests import Outcome, Prompt
from inflight.benchmark.serve.workload import lengths_hint
from inflight.errors import InflightError
from inflight.machine.resources import usable_cores
from inflight.progress import Advance


@dataclass(frozen=True, slots=True)
class Run:
    """`duration` in seconds, from the first request to the last piece of output; `client_cpu_seconds`: of this process,
    user and system, all threads."""

    outcomes: Sequence[Outcome]
    duration: float
    client_cpu_seconds: float
    cores: int
    max_concurrent: int


async def run_requests(
    client: Client, prompts: Sequence[Prompt], options: ServeBenchOptions, rng: np.random.Generator, advance: Advance
) -> Run:
    """Send every prompt and wait for all answers. Raises InflightError when the first, alone, fails."""
    for _ in range(options.num_warmups):
        outcome = await client.send(prompts[0])
        if outcome.error is not None:
            too_long = f"If it is too long for the server: {lengths_hint(options)}."
            hint = too_long if outcome.refused else "Check --base-url, --backend and --model."
            raise InflightError(f"The first request failed: {outcome.error}", hint)
    slots = asyncio.Semaphore(options.max_concurrency) if options.max_concurrency else None
    open_requests = most_open = 0

    async def send(prompt: Prompt) -> Outcome:
        nonlocal open_requests, most_open
        async with slots or nullcontext():
            open_requests += 1
            most_open = max(most_open, open_requests)
            outcome = await client.send(prompt)
            open_requests -= 1
        advance(1)
        return outcome

    start, cpu_start = time.perf_counter(), time.process_time()
    tasks = []
    for prompt, due in zip(prompts, _arrivals(options, rng), strict=False):
        wait = start + due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.ensure_future(send(prompt)))
    outcomes = await asyncio.gather(*tasks)
    duration, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Run(outcomes, duration, cpu_seconds, usable_cores(), most_open)


def _arrivals(options: ServeBenchOptions, rng: np.random.Generator) -> Iterator[float]:
    """Seconds after the start at which requests are due, without end."""
    due = 0.0
    while True:
        yield due
        if math.isfinite(options.request_rate):
            due += float(rng.gamma(options.burstiness, 1.0 / (options.request_rate * options.burstiness)))
