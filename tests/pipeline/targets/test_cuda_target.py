"""Engines of target cuda: what is built and refused, and what their launches make, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from inflight.build.engine import build_engine
from inflight.build.graph.operators import OPERATORS
from inflight.build.registry import make_recipe
from inflight.build.targets.cuda.supported import TAKEN
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.schemes import RECIPES
from inflight.engine_format.cuda_facts import LaunchList
from inflight.errors import BuildError, EngineError
from inflight.machine.cuda import require_gpu
from inflight.runtime.executors.cuda.executor import CudaExecutor
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.scheduler.step import StepBatch
from tests.models.families.further_families import FURTHER
from tests.models.families.mixtures import MIXTURES
from tests.models.random_models import random_shape, save_random_model
from tests.models.schemes import quantizing
from tests.network.support import ALL_FAMILIES, make_case

pytest.importorskip("triton", reason="pip install 'inflight-llm[cuda-compile]'")
from tests.engines.cuda_engine import BLOCKS, LIMITS, CudaEngine, build_cuda_engine, chunk, logits
from tests.oracles.gpu.interpreted_launches import open_interpreted

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def executor(built: CudaEngine) -> CudaExecutor:
    return open_interpreted(built.directory, BLOCKS)


def test_a_sequence_has_the_same_bits_in_any_company_and_any_chunks(
    built: CudaEngine, executor: CudaExecutor, rng: np.random.Generator
) -> None:
    """Many rows and few, whole prompts and parts, and when a preempted sequence is computed again."""
    prompt = int(rng.integers(18, 24))
    tokens, other = built.prompt(rng, prompt + 3), built.prompt(rng, 20)
    blocks = [int(block) for block in rng.permutation(BLOCKS)]
    mine, theirs, again = blocks[:2], blocks[2:4], blocks[4:6]
    logits(executor, chunk(0, tokens[:prompt], mine, prompt=prompt), chunk(1, other[:-1], theirs, prompt=19))
    for end in range(prompt + 1, prompt + 3):
        logits(executor, chunk(0, tokens[:end], mine, start=end - 1, prompt=prompt))
    company = chunk(1, other, theirs, start=19, prompt=19)
    *_, last = logits(executor, company, chunk(0, tokens, mine, start=prompt + 2, prompt=prompt))
    cut = int(rng.integers(1, prompt))
    logits(executor, chunk(2, tokens[:cut], again, prompt=prompt))
    assert np.array_equal(logits(executor, chunk(2, tokens, again, start=cut, prompt=prompt))[-1], last)
    expected = built.case.expected(tokens)[-1]
    assert np.abs(last - expected).max() <= 1e-4 * np.abs(expected).max()


def test_masks_are_computed_between_the_launches_of_logits_and_of_sampling(
    built: CudaEngine, executor: CudaExecutor, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a GPU computes the step; what the mask allows is what comes."""
    events: list[str] = []
    backend: Any = executor._backend

    def noted(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def run(*given: Any) -> None:
            events.append(name)
            call(*given)

        return run

    for name in ("write", "launch", "read", "wait_for"):
        monkeypatch.setattr(backend, name, noted(name, getattr(backend, name)))
    prompt, wanted = built.prompt(rng, 9), int(rng.integers(97))
    sequence = chunk(0, prompt, [3], prompt=9)

    def mask() -> None:
        events.append("mask")
        sequence.allowed = (1 << wanted).to_bytes(16, "little")

    output = executor.execute(StepBatch([sequence, chunk(1, prompt, [4], prompt=9)], mask))
    assert output.token_ids[0] == wanted
    order = [each for each, before in zip(events, ["", *events], strict=False) if each != before]
    assert order == ["write", "launch", "mask", "write", "launch", "read", "wait_for"]


def test_16_bits_are_near_transformers(tmp_path: Path, rng: np.random.Generator) -> None:
    """One of two types is drawn. The interpreter cuts bfloat16 off where a GPU rounds, which doubles the error."""
    dtype, limit = [(torch.bfloat16, 0.15), (torch.float16, 0.01)][int(rng.integers(2))]
    built = build_cuda_engine(tmp_path, dtype)
    executor = open_interpreted(built.directory, BLOCKS)
    tokens = built.prompt(rng, 9)
    got = logits(executor, chunk(0, tokens, [3], prompt=9))[-1]
    expected = built.case.expected(tokens)[-1]
    assert np.abs(got - expected).max() <= limit * np.abs(expected).max()


def test_a_quantized_cache_has_the_numbers_of_the_reference_target(
    built: CudaEngine, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Prompts and generated tokens, of a type that is drawn. Where a number lies between two levels, the last bit
    before it decides."""
    kv_cache_dtype = str(rng.choice(["int8", "fp8"]))
    tokens, found = built.prompt(rng, 20), []
    for target in ("reference", "cuda"):
        recipe = make_recipe(target=target, kv_cache_dtype=kv_cache_dtype, **LIMITS)
        build_engine(built.case.checkpoint.directory, tmp_path / target, recipe)
        blocks = KvCacheBudget(tokens=BLOCKS * LIMITS["tokens_per_block"])
        of_target = open_interpreted(tmp_path / target, BLOCKS) if target == "cuda" else None
        executor = of_target or load_engine(tmp_path / target, kv_cache=blocks)
        first = logits(executor, chunk(0, tokens[:-1], [5, 2], prompt=19))
        found.append(np.concatenate([first, logits(executor, chunk(0, tokens, [5, 2], start=19, prompt=19))]))
        executor.close()
    assert np.abs(found[0] - found[1]).max() <= 0.02 * np.abs(found[0]).max()


def assert_scheme(root: Path, scheme: str, rng: np.random.Generator) -> None:
    """The cuda target keeps rows plain that the reference rounds to 16-bit integers."""
    shape = replace(random_shape(rng, "qwen3"), vocab_size=97)
    case = make_case(root, shape, int(rng.integers(1 << 30)), torch.float32, **quantizing(scheme, 32))
    tokens = [int(token) for token in rng.integers(97, size=19)]
    found = []
    for target in ("reference", "cuda"):
        build_engine(case.checkpoint.directory, root / target, make_recipe(target=target, **LIMITS))
    cache = KvCacheBudget(tokens=BLOCKS * LIMITS["tokens_per_block"])
    for executor in (load_engine(root / "reference", kv_cache=cache), open_interpreted(root / "cuda", BLOCKS)):
        first = logits(executor, chunk(0, tokens[:-1], [5, 2], prompt=18))
        found.append(np.concatenate([first, logits(executor, chunk(0, tokens, [5, 2], start=18, prompt=18))]))
        executor.close()
    assert np.abs(found[0] - found[1]).max() <= 5e-3 * np.abs(found[0]).max()


def test_a_quantized_network_has_the_numbers_of_the_reference_target(tmp_path: Path, rng: np.random.Generator) -> None:
    """Of a scheme that is drawn; --slow has all."""
    assert_scheme(tmp_path, str(rng.choice([*RECIPES])), rng)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", RECIPES)
def test_every_scheme_has_the_numbers_of_the_reference_target(
    tmp_path: Path, scheme: str, rng: np.random.Generator
) -> None:
    assert_scheme(tmp_path, scheme, rng)


def test_the_same_checkpoint_gives_the_same_bytes(built: CudaEngine, tmp_path: Path) -> None:
    build_engine(built.case.checkpoint.directory, tmp_path / "engine", make_recipe(target="cuda", **LIMITS))
    files = sorted(path.name for path in built.directory.iterdir() if path.is_file())
    for name in files:
        assert (tmp_path / "engine" / name).read_bytes() == (built.directory / name).read_bytes(), name


def test_layers_share_their_kernels(built: CudaEngine) -> None:
    listed = msgspec.json.decode((built.directory / "rank0.launches.json").read_bytes(), type=LaunchList)
    kernels = {choice.kernel for launch in listed.launches for choice in launch.choices}
    layers = built.case.checkpoint.config.num_hidden_layers
    of_layers = [launch for launch in listed.launches if launch.rows in ("generated", "prompt_tiles")]
    assert len(of_layers) == 3 * layers
    assert len({launch.choices for launch in of_layers}) == 3
    assert kernels == set(range(len(kernels)))


def test_without_a_gpu_the_reason_is_said(built: CudaEngine) -> None:
    try:
        require_gpu()
    except EngineError:
        with pytest.raises(EngineError, match=r"NVIDIA|cuda-python"):
            load_engine(built.directory)
    else:
        pytest.skip("this machine has a GPU")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"sm": ("75",)}, "sm_75 is not one"),
        ({"sm": ("hopper",)}, "--sm hopper: a GPU generation is a number"),
        ({"kv_cache_dtype": "int4"}, "--kv-cache-dtype int4"),
    ],
)
def test_flags_that_no_kernel_is_for_are_refused(
    built: CudaEngine, tmp_path: Path, flags: dict[str, object], message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        build_engine(built.case.checkpoint.directory, tmp_path / "e", make_recipe(target="cuda", **flags, **LIMITS))


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("deepseek_v2", "LatentCacheWrite"),
    ],
)
def test_what_has_no_kernel_is_named(tmp_path: Path, family: str, message: str, rng: np.random.Generator) -> None:
    save_random_model(tmp_path / "model", random_shape(rng, family), 1, torch.float32)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions())
    with pytest.raises(BuildError, match=message):
        build_engine(tmp_path / "checkpoint", tmp_path / "engine", make_recipe(target="cuda", **LIMITS))


def test_what_is_taken_are_inputs_and_attributes_of_the_operators() -> None:
    for name, taken in TAKEN.items():
        operator = OPERATORS[name]
        assert set(taken.inputs) <= set(operator.inputs), name
        assert {*taken.attributes, *taken.only} == set(operator.attributes), name


@pytest.mark.slow
@pytest.mark.parametrize("family", [*ALL_FAMILIES, *FURTHER, *MIXTURES])
def test_every_family_is_right_or_refused_by_name(tmp_path: Path, family: str, rng: np.random.Generator) -> None:
    """Nothing of the mathematics is left out without a word."""
    assert_family(tmp_path, family, rng)


# Each has something of its own: biases by token, norms of whole queries and keys, xIELU, factors of queries, experts.
_UNLIKE = ("bloom", "mpt", "olmo2", "apertus", "ministral3", "gpt_oss", "qwen3_moe", "phimoe", "glm4_moe")


def test_what_few_families_have_is_right(tmp_path: Path, rng: np.random.Generator) -> None:
    """Of one that is drawn; --slow has all."""
    assert_family(tmp_path, str(rng.choice(_UNLIKE)), rng)


def assert_family(tmp_path: Path, family: str, rng: np.random.Generator) -> None:
    """A prompt and generated tokens have the logits of the reference target; or the refusal names what is missing."""
    shape = random_shape(rng, family)
    save_random_model(tmp_path / "model", shape, int(rng.integers(1 << 30)), torch.float32)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions())
    recipe = {**LIMITS, "max_num_tokens": 16, "max_logit_rows": 16, "max_seq_len": 32}
    try:
        build_engine(tmp_path / "checkpoint", tmp_path / "engine", make_recipe(target="cuda", **recipe))
    except BuildError as error:
        assert "no kernel for" in str(error)
        pytest.skip(str(error))
    build_engine(tmp_path / "checkpoint", tmp_path / "reference", make_recipe(target="reference", **recipe))
    vocabulary = Checkpoint.open(tmp_path / "checkpoint").config.vocab_size
    tokens = [int(token) for token in rng.integers(vocabulary, size=14)]
    executors = open_interpreted(tmp_path / "engine", 4), load_engine(tmp_path / "reference")
    ours, theirs = (logits(each, chunk(0, tokens, [1], prompt=9)) for each in executors)
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
