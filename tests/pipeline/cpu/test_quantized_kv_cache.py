"""Engines with a quantized KV cache: transformers with rounded keys and values is the judge, and the reference target;
contexts of several splits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from inflight.build.engine import build_engine, plan_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.engine_format.manifest import KvCacheFacts
from inflight.errors import BuildError, CheckpointError
from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.kv_cache.budget import KvCacheBudget
from inflight.runtime.loading.load import load_engine
from inflight.runtime.scheduler.step import RowSampling
from tests.engines.built_engine import BuiltEngine, build_random_engine, fresh_rng
from tests.models.float8 import write_tensors
from tests.models.random_models import Shape, random_shape, save_random_model
from tests.network.support import chosen, some_of
from tests.oracles.fused_attention import turned
from tests.pipeline.stepping import Run, prompt_logits, run_all

pytestmark = pytest.mark.pipeline

MAX_SEQ_LEN = 500
PROMPT = 400

# Against transformers that rounds as the cache does: a key or value that lies between two levels may fall the other
# way, in int8 by 1/127 of its head's greatest element, and carries on through the layers; with a cache of 8-bit floats
# queries and weights are bfloat16. (In bfloat16 products the model's own rounding is greater than that of the cache.)
SAME_ROUNDING = {"int8": 5e-3, "fp8": 3e-2, "int4": 3e-2}
# Against transformers itself: each rounding is up to 1/254 of the greatest element of a head, 1/16 of a number, or 1/16
# of the greatest element of a head that was turned.
NO_ROUNDING = {"int8": 5e-2, "fp8": 2e-1, "int4": 5e-1}
CACHES = [
    ("llama", torch.float32, "int8"),
    ("gemma2", torch.float32, "fp8"),
    ("qwen2", torch.bfloat16, "int8"),
    ("mistral", torch.float16, "int8"),
    ("gemma2", torch.float32, "int8"),
    ("llama", torch.bfloat16, "int4"),
    ("mistral", torch.float32, "int4"),
]


@pytest.fixture(scope="module", params=some_of(2, CACHES))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BuiltEngine:
    limits: dict[str, Any] = {
        "max_batch_size": 16,
        "max_seq_len": MAX_SEQ_LEN,
        "max_num_tokens": 300,
        "max_logit_rows": 300,
    }
    block = int(np.random.default_rng().choice([16, 32, 64, 128]))
    root = tmp_path_factory.mktemp("engine")
    family, dtype, cache = chosen(request.param, fresh_rng())
    print(family, dtype, cache)
    return build_random_engine(root, family, dtype, kv_cache_dtype=cache, tokens_per_block=block, **limits)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))


def open_engine(built: BuiltEngine, threads: int) -> CpuExecutor:
    executor = load_engine(built.directory, threads=threads, kv_cache=KvCacheBudget(tokens=16 * MAX_SEQ_LEN))
    assert isinstance(executor, CpuExecutor)
    return executor


def kind_of(executor: CpuExecutor) -> str:
    return str(executor.manifest.recipe["kv_cache_dtype"])


class RoundingCache(DynamicCache):  # type: ignore[misc]
    """Keys and values [batch, heads, tokens, D] rounded to the numbers of a cache."""

    def __init__(self, kind: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._rounded = {"int8": _int8, "fp8": _float8, "int4": _int4}[kind]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rounded = (self._rounded(states.float()).to(states.dtype) for states in (key_states, value_states))
        return super().update(*rounded, *args, **kwargs)


def _int8(states: torch.Tensor) -> torch.Tensor:
    """127 levels a side of each token and head."""
    scale = states.abs().amax(dim=-1, keepdim=True) / 127
    return torch.round(states / scale) * scale


def _float8(states: torch.Tensor) -> torch.Tensor:
    return states.clamp(-448, 448).to(torch.float8_e4m3fn).float()


def _int4(states: torch.Tensor) -> torch.Tensor:
    """Of each token and head, turned, -8 at its greatest magnitude."""
    heads = turned(states.numpy())
    low, high = heads.min(axis=-1, keepdims=True), heads.max(axis=-1, keepdims=True)
    scale = np.where(-low >= high, -low, -high) / 8
    return torch.from_numpy(turned(np.clip(np.rint(heads / scale), -8, 7) * scale))


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
    kind, config = kind_of(executor), built.model.config
    if built.dtype != torch.bfloat16:
        assert relative_error(built, executor, prompt, RoundingCache(kind, config=config)) < SAME_ROUNDING[kind]
    assert relative_error(built, executor, prompt, DynamicCache(config=config)) < NO_ROUNDING[kind]
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


@pytest.mark.parametrize(
    ("kind", "dtype", "layout", "nbytes"),
    [
        ("int8", "int8", "k-groups-scales", 32 + 32 + 2 * 4),  # 30 in groups of 4, and of 16
        ("int4", "int4", "k-groups-scales", 16 + 16 + 2 * 4),  # in groups of 8, and of 32
        ("fp8", "float8_e4m3fn", "k-groups", 30 + 32),
    ],
)
def test_the_manifest_counts_keys_values_and_scales(
    checkpoint: Path, kind: str, dtype: str, layout: str, nbytes: int
) -> None:
    cache = cache_of(checkpoint, kv_cache_dtype=kind, tokens_per_block=48)
    assert (cache.dtype, cache.layout) == (dtype, layout)
    assert cache.bytes_per_block == 5 * 3 * nbytes * 48


def test_a_checkpoint_that_names_a_type_gets_it_unless_the_recipe_says_otherwise(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    plain = path.read_text()
    config = json.loads(plain)
    try:
        path.write_text(json.dumps({**config, "quantization": {"kv_cache_quant_algo": "INT8"}}))
        assert cache_of(checkpoint).dtype == "int8"
        assert cache_of(checkpoint, kv_cache_dtype="bfloat16").dtype == "bfloat16"
        path.write_text(json.dumps({**config, "quantization": {"kv_cache_quant_algo": "FP8"}}))
        assert cache_of(checkpoint).dtype == "float8_e4m3fn"
        assert cache_of(checkpoint, kv_cache_dtype="int4").dtype == "int4"
        path.write_text(json.dumps({**config, "quantization": {"kv_cache_quant_algo": "NVFP4"}}))
        with pytest.raises(CheckpointError, match="NVFP4"):
            cache_of(checkpoint)
    finally:
        path.write_text(plain)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_blocks_of_which_integer_sums_could_overflow_are_refused(checkpoint: Path, kind: str) -> None:
    with pytest.raises(BuildError, match="at most 512"):
        cache_of(checkpoint, kv_cache_dtype=kind, tokens_per_block=528)


@pytest.mark.parametrize("kind", ["int8", "fp8", "int4"])
def test_the_reference_target_rounds_alike(kind: str, tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    """Random shapes and windows, and for FP8 factors that are read from the checkpoint, of keys and of values."""
    head_size = int(rng.choice([6, 20, 48, 66]))
    changes = {"head_size": head_size, "num_layers": 2}
    shape = replace(random_shape(rng, str(rng.choice(["llama", "gemma2", "qwen3"]))), **changes)  # type: ignore[arg-type]
    save_random_model(tmp_path / "model", shape, seed, torch.float32)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions())
    if kind == "fp8":
        add_cache_factors(tmp_path / "checkpoint", rng)
    length = int(rng.choice([1, 17, 300]))
    prompt = tuple(rng.integers(shape.vocab_size, size=length).tolist())
    logits = []
    for target in ("reference", "cpu"):
        limits = {"max_seq_len": 320, "max_num_tokens": 320, "max_logit_rows": 320, "max_batch_size": 2}
        asked = kind if target == "reference" or kind != "fp8" else "auto"
        recipe = make_recipe(target, kv_cache_dtype=asked, **limits)
        build_engine(tmp_path / "checkpoint", tmp_path / target, recipe)
        executor = load_engine(tmp_path / target, threads=1, kv_cache=KvCacheBudget(tokens=640))
        logits.append(prompt_logits(executor, prompt))  # type: ignore[arg-type]
        executor.close()
    error = np.sqrt(np.mean((logits[1] - logits[0]) ** 2) / np.mean(logits[0] ** 2))
    assert error < SAME_ROUNDING[kind]


def add_cache_factors(directory: Path, rng: np.random.Generator) -> None:
    """As other tools write them: one for both in the first layer, one for each in the others."""
    checkpoint = Checkpoint.open(directory)
    tensors = {name: np.array(checkpoint.array(name)) for name in checkpoint.tensors}
    for layer in range(len(checkpoint.spec.layers)):
        for kind in ("kv",) if layer == 0 else ("k", "v", "kv"):
            factor = np.float32(rng.choice([0.003, 0.01, 1, 1.7]))
            tensors[f"transformer.layers.{layer}.attention.{kind}_cache_scaling_factor"] = factor.reshape(1)
    write_tensors(directory, tensors)
    config = json.loads((directory / "config.json").read_text())
    config["quantization"]["kv_cache_quant_algo"] = "FP8"
    (directory / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_factors_that_are_no_numbers_above_zero_are_named(tmp_path: Path, factor: float, seed: int) -> None:
    save_random_model(tmp_path / "model", Shape(), seed, torch.float32)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions())
    add_cache_factors(tmp_path / "checkpoint", np.random.default_rng(seed))
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    tensors = {name: np.array(checkpoint.array(name)) for name in checkpoint.tensors}
    name = "transformer.layers.1.attention.v_cache_scaling_factor"
    tensors[name] = np.array([factor], np.float32)
    write_tensors(tmp_path / "checkpoint", tensors)
    with pytest.raises(CheckpointError, match=name):
        cache_of(tmp_path / "checkpoint")
