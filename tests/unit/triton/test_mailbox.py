"""Deltas between the engine's thread and the event loop: none is lost, late ones are joined."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import numpy as np
import pytest

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.executors.null.executor import NullExecutor, null_manifest
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import TokenResult
from inflight.triton_backend.openai.backends.embedded import EmbeddedBackend, Mailbox

pytestmark = pytest.mark.unit


def random_deltas(rng: np.random.Generator, sequences: int) -> list[TokenDelta]:
    """The deltas of all sequences, in an order that could be the engine's; the first has the prompt's scores."""
    deltas: list[TokenDelta] = []
    lengths = rng.integers(1, 12, sequences).tolist()
    order = rng.permutation([index for index, length in enumerate(lengths) for _ in range(length)]).tolist()
    seen: Counter[int] = Counter()
    for index in order:
        seen[index] += 1
        ids = tuple(rng.integers(0, 1000, int(rng.integers(1, 4))).tolist())
        deltas.append(
            TokenDelta(
                request_id="r",
                index=index,
                token_ids=ids,
                logprobs=tuple(TokenResult(token, -1.0, 1, ()) for token in ids),
                prompt_logprobs=(None,) if not deltas else None,
                finish_reason="length" if seen[index] == lengths[index] else None,
            )
        )
    return deltas


def test_whenever_it_is_emptied_every_token_comes_once_in_order_and_the_end_comes_last(
    rng: np.random.Generator,
) -> None:
    deltas = random_deltas(rng, sequences=3)

    async def take_at_random() -> list[TokenDelta]:
        mailbox, taken = Mailbox(), []
        for delta in deltas:
            mailbox.put(delta)
            if rng.random() < 0.3:
                taken += await mailbox.take()
        mailbox.put(deltas[-1])
        return taken + await mailbox.take()

    deltas.append(TokenDelta("r", 99, (1,), (), None, "stop"))
    taken = asyncio.run(take_at_random())
    for index in range(3):
        expected = [delta for delta in deltas if delta.index == index]
        found = [delta for delta in taken if delta.index == index]
        assert [t for d in found for t in d.token_ids] == [t for d in expected for t in d.token_ids]
        assert [r.token_id for d in found for r in d.logprobs] == [t for d in expected for t in d.token_ids]
        assert [d.finish_reason for d in found] == [None] * (len(found) - 1) + ["length"]
    assert [d.prompt_logprobs for d in taken if d.prompt_logprobs is not None] == [(None,)]


def test_a_taker_that_waits_is_woken_by_what_comes() -> None:
    async def wait_and_put() -> list[TokenDelta]:
        mailbox = Mailbox()
        taking = asyncio.ensure_future(mailbox.take())
        await asyncio.sleep(0)
        mailbox.put(TokenDelta("r", 0, (1,)))
        mailbox.put(TokenDelta("r", 0, (2,)))
        return await taking

    (delta,) = asyncio.run(wait_and_put())
    assert delta.token_ids == (1, 2)


def test_the_embedded_backend_gives_the_engines_tokens_and_is_woken_at_most_once_a_step(
    rng: np.random.Generator,
) -> None:
    manifest = null_manifest(max_batch_size=16, max_num_tokens=256)
    params = SamplingParams(max_tokens=40, ignore_eos=True, seed=7)
    prompts = [tuple(rng.integers(0, manifest.model.vocab_size, 4).tolist()) for _ in range(10)]
    requests = [Request(str(number), prompt, params) for number, prompt in enumerate(prompts)]
    core = EngineCore(NullExecutor(manifest, 128))
    for request in requests:
        core.add_request(request)
    expected: dict[str, tuple[int, ...]] = dict.fromkeys((request.request_id for request in requests), ())
    while core.has_unfinished():
        for delta in core.step():
            expected[delta.request_id] += delta.token_ids

    engine = EngineThread(EngineCore(NullExecutor(manifest, 128)))
    backend = EmbeddedBackend(engine)
    wakes: Counter[int] = Counter()

    async def collect(request: Request) -> tuple[int, ...]:
        return tuple([token async for delta in backend.generate(request) for token in delta.token_ids])

    async def collect_all() -> list[tuple[int, ...]]:
        loop = asyncio.get_running_loop()
        call_soon = loop.call_soon_threadsafe

        def counting(*arguments: object, **options: object) -> asyncio.Handle:
            wakes[threading.get_ident()] += 1
            return call_soon(*arguments, **options)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = counting  # type: ignore[method-assign]
        return await asyncio.gather(*map(collect, requests))

    found = asyncio.run(collect_all())
    steps = engine.stats().iterations
    engine.close()
    assert found == [expected[request.request_id] for request in requests]
    assert sum(wakes.values()) <= steps
