"""inflight's offline engine: inflight_worker.py ENGINE THREADS KV_TOKENS."""

from __future__ import annotations

import sys
from pathlib import Path

from protocol import serve

from inflight import __version__
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.base import settle
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.scheduler import SchedulerConfig


def main() -> None:
    path, threads, kv_tokens = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    executor = load_engine(path, threads=threads, kv_cache=KvCacheBudget(tokens=kv_tokens))
    settle(executor)
    core = EngineCore(executor, SchedulerConfig(enable_prefix_caching=False))

    def generate(prompts: list[list[int]], max_tokens: int) -> int:
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        for number, prompt in enumerate(prompts):
            core.add_request(Request(str(number), tuple(prompt), params))
        tokens = 0
        while core.has_unfinished():
            tokens += sum(len(delta.token_ids) for delta in core.step())
        return tokens

    serve(f"inflight {__version__}", generate)


main()
