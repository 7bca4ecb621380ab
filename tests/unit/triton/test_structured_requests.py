"""A client that leaves while the grammar of its structured output is compiled leaves nothing behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.runtime.text.tokenizer import load_tokenizer
from inflight.triton_backend.openai.backends.embedded import EmbeddedBackend
from tests.engines.serving_engines import write_null_engine
from tests.unit.runtime.test_engine_thread import GatedExecutor

pytestmark = pytest.mark.unit


def test_a_client_that_leaves_during_compilation_is_not_served(tmp_path: Path, rng: np.random.Generator) -> None:
    tokenizer = load_tokenizer(write_null_engine(tmp_path / "engine") / "tokenizer")
    executor = GatedExecutor()
    # Whatever is queued stays: no step ends.
    executor.gate.clear()
    grammars = GrammarCompiler(lambda: tokenizer, read_engine_directory(tmp_path / "engine").manifest)
    engine = EngineThread(EngineCore(executor, grammars=grammars))
    backend = EmbeddedBackend(engine)

    async def leave(name: int) -> None:
        words = {"".join(map(chr, rng.integers(97, 123, 12))) for _ in range(2000)}
        params = SamplingParams(structured_outputs=StructuredOutputs(choice=sorted(words)), max_tokens=20)
        answer = backend.generate(Request(str(name), (1, 2), params))
        asking = asyncio.create_task(anext(answer))
        await asyncio.sleep(float(rng.uniform(0, 0.002)))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    async def leave_many() -> None:
        for name in range(5):
            await leave(name)

    # Its end waits for the threads that compile.
    asyncio.run(leave_many())
    stats = engine.stats()
    executor.gate.set()
    engine.close()
    assert stats.running + stats.waiting + stats.held == 0
