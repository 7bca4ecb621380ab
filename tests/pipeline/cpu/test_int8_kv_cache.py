"""Engines with an int8 KV cache: transformers with rounded keys and values is the judge; contexts of several splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from inflight.build.engine import plan_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.engine_format.manifest import KvCacheFacts
from inflight.errors import BuildError, CheckpointError
from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.kv_cache.budget import KvCacheBudget
from inflight.runtime.loading.load import load_engine
from inflight.runtime.scheduler.step import RowSampling
from tests.engines.built_engine import BuiltEngine, build_random_engine
from tests.models.random_models import Shape, save_random_model
from tests.pipeline.stepping import Run, prompt_logits, run_all

pytestmark = pytest.mark.pipeline

MAX_SEQ_LEN = 500
PROMPT = 400

# Against transformers that rounds as the cache does: a key or value that lies between two levels may fall the other
# way, by 1/127 of its head's greatest element, and carries on through the layers. (In bfloat16 products the model's own
# rounding is greater than that of the cache.)
SAME_ROUNDING = 5e-3
# Against transformers itself: each rounding is up to 1/254 of the greatest element of a head.
NO_ROUNDING = 5e-2


@pytest.fixture(
    scope="module",
    params=[("llama", torch.float32), ("qwen2", torch.bfloat16), ("mistral", torch.float16), ("gemma2", torch.float32)],
    ids=lambda value: f"{value[0]}-{str(value[1]).removeprefix('torch.')}",
)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BuiltEngine:
    limits: dict[str, Any] = {
        "max_batch_size": 16,
        "max_seq_len": MAX_SEQ_LEN,
        "max_num_tokens": 300,
        "max_logit_rows": 300,
    }
    block = int(np.random.default_rng().choice([16, 32, 64, 128]))
    root = tmp_path_factory.mktemp("engine")
    return build_random_engine(root, *request.param, kv_cache_dtype="int8", tokens_per_block=block, **limits)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))


def open_engine(built: BuiltEngine, threads: int) -> CpuExecutor:
    executor = load_engine(built.directory, threads=threads, kv_cache=KvCacheBudget(tokens=16 * MAX_SEQ_LEN))
    assert isinstance(executor, CpuExecutor)
    return executor


class RoundingCache(DynamicCache):  # type: ignore[misc]
    """Keys and values [batch, heads, tokens, D] rounded to 127 levels a side of each token and head."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().update(_rounded(key_states), _rounded(value_states), *args, **kwargs)


def _rounded(states: torch.Tensor) -> torch.Tensor:
    scale = states.float().abs().amax(dim=-1, keepdim=True) / 127
    return (torch.round(states.float() / scale) * scale).to(states.dtype)


def relative_error(built: BuiltEngine, executor: CpuExecutor, prompt: tuple[int, ...], cache: DynamicCache) -> float:
    """The root mean square of the engine's error over that of transformers' logits, in float32."""
    model = built.model.float()
    with torch.no_grad():
        expected = np.asarray(model(torch.tensor([prompt]), past_key_values=cache).logits[0])
    error = prompt_logits(executor, prompt) - expected
    return float(np.sqrt(np.mean(error**2) / np.mean(expected**2)))


def test_logits_are_those_of_transformers_with_rounded_keys_and_values(
    built: BuiltEngine, rng: np.random.Generator
) -> None:
    executor, prompt = open_engine(built, 2), built.random_prompt(rng, PROMPT)
    if built.dtype != torch.bfloat16:
        assert relative_error(built, executor, prompt, RoundingCache(config=built.model.config)) < SAME_ROUNDING
    assert relative_error(built, executor, prompt, DynamicCache(config=built.model.config)) < NO_ROUNDING
    executor.close()


def test_a_long_context_gets_the_same_bits_in_any_company_chunks_and_number_of_threads(
    built: BuiltEngine, rng: np.random.Generator
) -> None:
    prompt, sampling = built.random_prompt(rng, PROMPT), RowSampling(num_logprobs=3)
    alone = Run(prompt, sampling, 40)
    executor = open_engine(built, 1)
    run_all(executor, [alone], rng, lambda: 300)
    executor.close()
    for threads, company, most in ((2, 0, 1), (2, 6, 200), (3, 3, 40)):
        executor = open_engine(built, threads)
        again = Run(prompt, sampling, 40)
        others = [Run(built.random_prompt(rng, int(rng.integers(1, PROMPT))), sampling, 5) for _ in range(company)]
        run_all(executor, [*others, again], rng, lambda most=most: int(rng.integers(1, most + 1)))  # type: ignore[misc]
        executor.close()
        assert repr(again.results) == repr(alone.results)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("planned")
    save_random_model(root / "model", Shape(head_size=30, num_kv_heads=3, num_layers=5), 1, torch.bfloat16)
    convert_model(root / "model", root / "checkpoint", ConvertOptions())
    return root / "checkpoint"


def cache_of(checkpoint: Path, **recipe: Any) -> KvCacheFacts:
    return plan_engine(checkpoint, make_recipe(**recipe)).target.kv_cache


def test_the_manifest_counts_keys_values_and_scales(checkpoint: Path) -> None:
    cache = cache_of(checkpoint, kv_cache_dtype="int8", tokens_per_block=48)
    keys, values, scales = 32, 32, 2 * 4  # 30 in groups of 4, and of 16
    assert (cache.dtype, cache.layout) == ("int8", "k-groups-scales")
    assert cache.bytes_per_block == 5 * 3 * (keys + values + scales) * 48


def test_a_checkpoint_that_names_int8_gets_it_unless_the_recipe_says_otherwise(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    plain = path.read_text()
    config = json.loads(plain)
    try:
        path.write_text(json.dumps({**config, "quantization": {"kv_cache_quant_algo": "INT8"}}))
        assert cache_of(checkpoint).dtype == "int8"
        assert cache_of(checkpoint, kv_cache_dtype="bfloat16").dtype == "bfloat16"
        path.write_text(json.dumps({**config, "quantization": {"kv_cache_quant_algo": "FP8"}}))
        with pytest.raises(CheckpointError, match="FP8"):
            cache_of(checkpoint)
    finally:
        path.write_text(plain)


def test_blocks_of_which_integer_sums_could_overflow_are_refused(checkpoint: Path) -> None:
    with pytest.raises(BuildError, match="at most 512"):
        cache_of(checkpoint, kv_cache_dtype="int8", tokens_per_block=528)
