"""The demonstration model beside itself in a second quantization: each answers by its name as it does alone."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import uvicorn

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.runtime import LLM, SamplingParams
from inflight.triton_backend.launch.api.bounded_head import BoundedHead
from inflight.triton_backend.launch.options import ServeOptions
from inflight.triton_backend.launch.several.openers import InThisProcess
from inflight.triton_backend.models.catalogue import Catalogue, write_state
from inflight.triton_backend.models.front import Front
from inflight.triton_backend.models.memory import MemoryBudget
from inflight.triton_backend.models.names import ServedModel
from tests.engines.demo_engine import DEMO_MODEL, build_demo_engine, random_questions

pytestmark = pytest.mark.endpoint

RECIPE: dict[str, Any] = {"target": "reference", "max_seq_len": 256, "max_batch_size": 2, "max_num_tokens": 64}


@contextmanager
def serving(models: Mapping[str, ServedModel], budget: MemoryBudget, folder: Path) -> Iterator[str]:
    """The application of several models, all loaded."""
    state = folder / "state"
    write_state(state, budget.divide(list(models.values()), {}))
    catalogue = Catalogue(models, InThisProcess(ServeOptions(model_name="", threads=1)), budget, state, drain_s=1)
    catalogue.open_all()
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(Front(catalogue, (), 1 << 22), log_level="warning", http=BoundedHead)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def precisions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demonstration model, and the same in a second quantization."""
    root = tmp_path_factory.mktemp("precisions")
    recipe: Any = {"target": "reference", "max_seq_len": 256, "max_batch_size": 2, "max_num_tokens": 64}
    int8 = ConvertOptions(dtype="float32", quantize="int8_wo")
    convert_model(DEMO_MODEL, root / "int8" / "checkpoint", int8)
    build_engine(root / "int8" / "checkpoint", root / "int8" / "engine", make_recipe(**recipe))
    return {"plain": build_demo_engine(root / "plain", **recipe), "int8": root / "int8" / "engine"}


def test_one_model_in_two_precisions_within_one_budget(
    precisions: dict[str, Path], rng: np.random.Generator, tmp_path: Path
) -> None:
    ((question, answer),) = random_questions(rng, 1)
    messages: Any = [{"role": "user", "content": question}]
    alone = {}
    for name, engine in precisions.items():
        with LLM(engine, threads=1, kv_cache_tokens=512) as llm:
            (output,) = llm.chat(messages, SamplingParams(temperature=0, max_tokens=64, logprobs=1))
            alone[name] = output.outputs[0]
            per_block = llm.manifest.kv_cache.bytes_per_block
            per_sequence = 256 // llm.manifest.kv_cache.tokens_per_block
    assert alone["plain"].text == answer and alone["plain"].cumulative_logprob != alone["int8"].cumulative_logprob
    models = {name: ServedModel(name=name, engine_dir=engine) for name, engine in precisions.items()}
    room = (2 * per_sequence + 3) * per_block  # one sequence of full length for each, and three blocks more
    limit = MemoryBudget(total=1 << 30, caches=room)
    with serving(models, limit, tmp_path) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        for name, expected in alone.items():
            found = client.chat.completions.create(
                model=name, messages=messages, temperature=0, max_tokens=64, logprobs=True
            )
            assert (found.model, found.choices[0].message.content) == (name, expected.text)
            logprobs = [each.logprob for each in found.choices[0].logprobs.content or ()]
            assert sum(logprobs) == pytest.approx(expected.cumulative_logprob, abs=1e-3)
        metrics = urllib.request.urlopen(f"{url}/metrics").read().decode()
    blocks = [
        float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("inflight_engine_total_blocks{")
    ]
    assert len(blocks) == 2 and 2 * per_sequence <= sum(blocks) <= 2 * per_sequence + 3
