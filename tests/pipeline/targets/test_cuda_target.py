"""Engines of target cuda: what is built and refused, and what their launches make, interpreted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from inflight.build.engine import build_engine, plan_build, plan_engine, write_engine
from inflight.build.gpu_kernels.architectures import SMS
from inflight.build.gpu_kernels.compile import Compilation
from inflight.build.gpu_kernels.spec import Argument
from inflight.build.graph.operators import OPERATORS
from inflight.build.registry import make_recipe
from inflight.build.targets.cuda.build import CudaBuild
from inflight.build.targets.cuda.supported import TAKEN
from inflight.engine_format.cuda_facts import LaunchList
from inflight.errors import BuildError, EngineError
from inflight.machine.cuda import require_gpu
from inflight.progress import Advance
from inflight.runtime.executors.cuda.executor import CudaExecutor
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.scheduler.step import StepBatch
from tests.patience import eventually
from tests.pipeline.targets.cuda_engine import CudaEngine, build_cuda_engine
from tests.pipeline.targets.cuda_steps import BLOCKS, LIMITS, chunk, logits

pytest.importorskip("triton", reason="pip install 'inflight-llm[cuda-compile]'")
from tests.oracles.gpu.interpreted_launches import open_interpreted, uncompiled

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
    with uncompiled():
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
        with uncompiled():
            build_engine(built.case.checkpoint.directory, tmp_path / target, recipe)
        blocks = KvCacheBudget(tokens=BLOCKS * LIMITS["tokens_per_block"])
        of_target = open_interpreted(tmp_path / target, BLOCKS) if target == "cuda" else None
        executor = of_target or load_engine(tmp_path / target, kv_cache=blocks)
        first = logits(executor, chunk(0, tokens[:-1], [5, 2], prompt=19))
        found.append(np.concatenate([first, logits(executor, chunk(0, tokens, [5, 2], start=19, prompt=19))]))
        executor.close()
    assert np.abs(found[0] - found[1]).max() <= 0.02 * np.abs(found[0]).max()


def test_the_same_checkpoint_gives_the_same_bytes(built: CudaEngine, tmp_path: Path) -> None:
    build_engine(built.case.checkpoint.directory, tmp_path / "engine", make_recipe(target="cuda", **LIMITS))
    files = sorted(path.name for path in built.directory.iterdir() if path.is_file())
    for name in files:
        assert (tmp_path / "engine" / name).read_bytes() == (built.directory / name).read_bytes(), name


@pytest.mark.slow
def test_the_same_checkpoint_gives_the_same_bytes_for_every_generation(
    built: CudaEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is taken from the build before: each has a cache of its own."""
    recipe = make_recipe(target="cuda", sm=tuple(map(str, SMS)), **LIMITS)
    for name in ("first", "second"):
        monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / f"cache of the {name}"))
        build_engine(built.case.checkpoint.directory, tmp_path / name, recipe)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.is_file()}
        for name in ("first", "second")
    )
    assert set(msgspec.json.decode(first["rank0.kernels.json"])) == set(map(str, SMS))
    assert [name for name in first if first[name] != second.get(name)] == [] and set(first) == set(second)


def test_planning_reads_no_weight(built: CudaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run of a large model takes no time; the digest of a checkpoint takes reading all of it."""

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} is read")

    monkeypatch.setattr("inflight.convert.checkpoint.directory.sha256_file", refuse)
    plan_engine(built.case.checkpoint.directory, make_recipe(target="cuda", **LIMITS))


def test_a_kernel_that_does_not_compile_ends_a_build_amid_its_weights(
    built: CudaEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = plan_build(built.case.checkpoint.directory, make_recipe(target="cuda", **LIMITS))
    assert isinstance(build.target, CudaBuild)
    step = build.target._step
    (spec, variant), *_ = step.kernels
    wrong = replace(spec, arguments=(*spec.arguments, Argument("surplus", "i32")))
    build.target._step = replace(step, kernels=[*step.kernels, (wrong, variant)])
    written: list[float] = []
    checks: list[Compilation] = []
    check = Compilation.check

    def recorded(compilation: Compilation) -> None:
        checks.append(compilation)
        check(compilation)

    def fails() -> bool:
        try:
            check(checks[-1])
        except BuildError:
            return True
        return False

    def advance(amount: float, label: str | None = None) -> None:
        written.append(amount)
        # As weights that take long.
        assert eventually(fails)

    @contextmanager
    def bar(*_: Any) -> Iterator[Advance]:
        yield advance

    monkeypatch.setattr(Compilation, "check", recorded)
    monkeypatch.setattr("inflight.build.engine.progress_bar", bar)
    with pytest.raises(BuildError, match=rf"{spec.function} .*differ: surplus"):
        write_engine(build, tmp_path / "engine")
    assert len(written) == 1 and written[0] < build.plan.target.memory.weights_bytes
    assert not list(tmp_path.iterdir())


def test_layers_share_their_kernels(built: CudaEngine) -> None:
    listed = msgspec.json.decode((built.directory / "rank0.launches.json").read_bytes(), type=LaunchList)
    kernels = {choice.kernel for launch in listed.launches for choice in launch.choices}
    layers = built.case.checkpoint.config.num_hidden_layers
    of_layers = [launch for launch in listed.launches if launch.rows in ("generated", "prompt_tiles")]
    assert len(of_layers) == 2 * layers
    assert len({launch.choices for launch in of_layers}) == 2
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
        ({"fp8_products": "widened"}, "--fp8-products widened: no product of this checkpoint has FP8 rows"),
    ],
)
def test_flags_that_no_kernel_is_for_are_refused(
    built: CudaEngine, tmp_path: Path, flags: dict[str, object], message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        build_engine(built.case.checkpoint.directory, tmp_path / "e", make_recipe(target="cuda", **flags, **LIMITS))


def test_what_is_taken_are_inputs_and_attributes_of_the_operators() -> None:
    for name, taken in TAKEN.items():
        operator = OPERATORS[name]
        assert set(taken.inputs) <= set(operator.inputs), name
        assert {*taken.attributes, *taken.only} == set(operator.attributes), name
