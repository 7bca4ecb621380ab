"""A whole serving benchmark: prompts, client, run, figures."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from inflight.benchmark.serve.clients.base import Client
from inflight.benchmark.serve.clients.openai import OpenAIClient
from inflight.benchmark.serve.clients.triton import TritonClient
from inflight.benchmark.serve.datasets import make_prompts
from inflight.benchmark.serve.metrics import summarize
from inflight.benchmark.serve.options import ServeBenchOptions
from inflight.benchmark.serve.run import Run, run_requests
from inflight.benchmark.serve.workload import check_workload
from inflight.errors import InflightError
from inflight.progress import progress_bar
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, slots=True)
class ServeBenchResult:
    """The options, the model's name at the server, what happened, and its figures (see metrics.summarize)."""

    options: ServeBenchOptions
    model: str
    run: Run
    figures: dict[str, Any]

    def as_dict(self, detailed: bool = False) -> dict[str, Any]:
        """The fields of vLLM's result file; `detailed`: those of every single request too."""
        options = self.options
        finite = math.isfinite(options.request_rate)
        values = {
            "date": datetime.now().strftime("%Y%m%d-%H%M%S"),
            "backend": options.backend,
            "model_id": self.model,
            "tokenizer_id": options.tokenizer,
            "num_prompts": options.num_prompts,
            "request_rate": options.request_rate if finite else "inf",
            "burstiness": options.burstiness,
            "max_concurrency": options.max_concurrency,
            **self.figures,
        }
        return values | self._details() if detailed else values

    def _details(self) -> dict[str, Any]:
        outcomes = self.run.outcomes
        return {
            "input_lens": [each.prompt_len for each in outcomes],
            "output_lens": [each.output_tokens for each in outcomes],
            "ttfts": [each.ttft for each in outcomes],
            "itls": [each.itl for each in outcomes],
            "generated_texts": [each.text for each in outcomes],
            "errors": [each.error or "" for each in outcomes],
        }


def bench_server(options: ServeBenchOptions) -> ServeBenchResult:
    """Measure the server at `options.base_url`. Raises InflightError when it cannot be reached, when it does not take
    sequences so long or refuses the first request, and when every request fails."""
    rng = np.random.default_rng(options.seed)
    tokenizer = _tokenizer(options.tokenizer)
    prompts = make_prompts(options, tokenizer, rng)
    with progress_bar("Requests", len(prompts)) as advance:

        async def measure() -> tuple[str, Run]:
            client = await _connect(options)
            try:
                check_workload(prompts, client.max_seq_len, options)
                return client.model, await run_requests(client, prompts, options, rng, advance)
            finally:
                await client.close()

        model, run = asyncio.run(measure())
    errors = [outcome.error for outcome in run.outcomes if outcome.error is not None]
    if len(errors) == len(run.outcomes):
        raise InflightError(f"Every request failed; the first: {errors[0]}")
    return ServeBenchResult(options, model, run, summarize(run, options))


async def _connect(options: ServeBenchOptions) -> Client:
    return TritonClient(options) if options.backend == "triton" else await OpenAIClient.connect(options)


def _tokenizer(name: str | None) -> Tokenizer | None:
    """The tokenizer of an engine or of a model directory."""
    if name is None:
        return None
    directory = Path(name).expanduser()
    inside = directory / "tokenizer"
    return load_tokenizer(inside if inside.is_dir() else directory)
