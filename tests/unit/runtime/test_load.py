"""Loading: the executor of the target, the size of the KV cache, the machine's limits."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console
from typer.testing import CliRunner

from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.engine_format.cpu_facts import Variant
from inflight.engine_format.manifest import EngineManifest, MemoryPlan
from inflight.errors import CheckpointError, EngineError
from inflight.machine.resources import available_memory, usable_cores
from inflight.machine.tiles import ask_for_tiles, needs_tiles
from inflight.runtime.executors.cpu.features import Machine, choose_variant, normalize_feature, this_machine
from inflight.runtime.executors.cpu.memory import map_zeroed
from inflight.runtime.executors.null.executor import NullExecutor, null_manifest
from inflight.runtime.kv_cache.budget import KvCacheBudget, plan_num_blocks
from inflight.runtime.loading.load import load_engine
from inflight.runtime.loading.memory_table import format_bytes, memory_table
from inflight.runtime.loading.rebuild import rebuild_command
from tests.engines.engine_files import RECIPE, write_engine

pytestmark = pytest.mark.unit

HERE = Path("ENGINE")


@pytest.fixture
def engine(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))
    write_engine(tmp_path / "engine", rng)
    return tmp_path / "engine"


def sized_manifest() -> EngineManifest:
    """Blocks of 16 tokens and 128 bytes, 32 of them for a sequence of 512 tokens, 8 sequences in a batch."""
    memory = MemoryPlan(weights_bytes=1000, workspace_bytes=500)
    return replace(null_manifest(), memory=memory, recipe=RECIPE)


def test_an_engine_opens_with_the_executor_of_its_target(engine: Path) -> None:
    executor = load_engine(engine, threads=1, kv_cache=KvCacheBudget(tokens=1024))
    assert isinstance(executor, NullExecutor)
    assert executor.num_blocks == 64


def test_the_cache_is_no_larger_than_a_full_batch_can_use(engine: Path) -> None:
    assert load_engine(engine).num_blocks == 8 * 32


def test_zero_threads_and_several_ranks_are_refused(tmp_path: Path, engine: Path, rng: np.random.Generator) -> None:
    with pytest.raises(EngineError, match="--threads is 0"):
        load_engine(engine, threads=0)
    with pytest.raises(EngineError, match="--threads is 100000; this process may use"):
        load_engine(engine, threads=100_000)
    write_engine(tmp_path / "two", rng, world_size=2)
    with pytest.raises(EngineError, match="2 ranks"):
        load_engine(tmp_path / "two")


def test_the_smallest_budget_wins() -> None:
    manifest = sized_manifest()
    free = 1500 + 128 * 100
    assert plan_num_blocks(manifest, KvCacheBudget(fraction=1.0), free, HERE) == 100
    assert plan_num_blocks(manifest, KvCacheBudget(fraction=0.5), free, HERE) == 50
    assert plan_num_blocks(manifest, KvCacheBudget(bytes=128 * 40 + 127), free, HERE) == 40
    assert plan_num_blocks(manifest, KvCacheBudget(tokens=16 * 35 - 1), free, HERE) == 35
    assert plan_num_blocks(manifest, KvCacheBudget(bytes=128 * 60, tokens=16 * 33), free, HERE) == 33


def test_too_little_memory_names_the_longest_sequence_that_fits() -> None:
    manifest = sized_manifest()
    with pytest.raises(EngineError, match="largest max_seq_len that fits is 496") as caught:
        plan_num_blocks(manifest, KvCacheBudget(fraction=1.0), 1500 + 128 * 31, HERE)
    assert "--max-seq-len 496" in str(caught.value)
    with pytest.raises(EngineError, match="No max_seq_len fits"):
        plan_num_blocks(manifest, KvCacheBudget(), 1400, HERE)


@pytest.mark.parametrize("values", [{"fraction": 0.0}, {"fraction": 1.5}, {"bytes": 0}, {"tokens": -1}])
def test_a_budget_out_of_range_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(EngineError, match="must be"):
        KvCacheBudget(**values)  # type: ignore[arg-type]


def test_the_memory_table_says_how_many_sequences_fit() -> None:
    page = io.StringIO()
    Console(width=120, file=page).print(memory_table(NullExecutor(sized_manifest(), 100)))
    text = page.getvalue()
    assert "100 blocks x 16 = 1,600 tokens" in text
    assert "3 sequences of 512 tokens" in text
    assert format_bytes(100 * 128) == "12.5 KiB" and "12.5 KiB" in text


def variant(cpu: str, triple: str, *features: str) -> Variant:
    return Variant(
        rank=0, cpu=cpu, file=f"rank0.{cpu}.engine", digest="0" * 64, triple=triple, required_features=features
    )


def machine(*features: str) -> Machine:
    return Machine("x86_64", "linux", "Some CPU", frozenset(map(normalize_feature, features)))


def test_the_first_variant_that_the_machine_can_run_is_chosen() -> None:
    linux = "x86_64-linux-gnu"
    variants = (
        variant("neoverse_v1", "aarch64-linux-gnu"),
        variant("x86-64-v4", linux, "avx2", "avx512_bf16"),
        variant("x86-64-v3", "x86_64-linux-gnu.2.17", "avx2"),
        variant("x86-64-v2", linux),
    )
    manifest = sized_manifest()
    assert choose_variant(variants, manifest, HERE, machine("AVX2", "avx512bf16")).cpu == "x86-64-v4"
    assert choose_variant(variants, manifest, HERE, machine("avx2")).cpu == "x86-64-v3"
    assert choose_variant(variants, manifest, HERE, machine()).cpu == "x86-64-v2"


def test_a_machine_that_no_variant_fits_is_told_why_and_what_to_build() -> None:
    variants = (
        variant("neoverse_v1", "aarch64-linux-gnu"),
        variant("x86-64-v4", "x86_64-linux-gnu", "avx2", "avx512f"),
    )
    manifest = replace(sized_manifest(), target="cpu")
    with pytest.raises(EngineError, match="needs avx512f, which this CPU lacks") as caught:
        choose_variant(variants, manifest, HERE, machine("avx2"))
    assert "its neoverse_v1 code is for aarch64 linux" in caught.value.message
    assert "--force --target cpu --cpu native" in (caught.value.hint or "")


def test_tiles_are_asked_for_before_a_variant_that_needs_them_and_a_refusal_falls_back() -> None:
    linux = "x86_64-linux-gnu"
    tiles = variant("sapphirerapids", linux, "avx2", "amx_tile", "amx_int8", "amx_bf16")
    plain = variant("x86-64-v3", linux, "avx2")
    manifest, variants = replace(sized_manifest(), target="cpu"), (tiles, plain)
    asked: list[str | None] = []

    def answer(reason: str | None) -> Callable[[], str | None]:
        def ask() -> str | None:
            asked.append(reason)
            return reason

        return ask

    has_tiles = machine("avx2", "amx_tile", "AMX-INT8", "amx_bf16")
    assert choose_variant(variants, manifest, HERE, has_tiles, answer(None)).cpu == "sapphirerapids"
    assert choose_variant(variants, manifest, HERE, has_tiles, answer("No space left on device")).cpu == "x86-64-v3"
    assert choose_variant(variants, manifest, HERE, machine("avx2"), answer(None)).cpu == "x86-64-v3"
    assert asked == [None, "No space left on device"]
    with pytest.raises(EngineError, match=r"needs AMX tiles, which the system refuses \(No space left on device\)"):
        choose_variant((tiles,), manifest, HERE, has_tiles, answer("No space left on device"))


def test_a_machine_without_tiles_says_why_it_refuses_them() -> None:
    if needs_tiles(this_machine().features):
        pytest.skip("this machine has tiles")
    assert ask_for_tiles()


def test_memory_that_the_system_refuses_is_named_by_its_purpose() -> None:
    with pytest.raises(EngineError, match="bytes for the KV cache"):
        map_zeroed(1 << 60, "KV cache")


def test_this_machine_is_known() -> None:
    assert this_machine().features
    assert usable_cores() >= 1
    assert available_memory() > 1 << 20


def test_the_command_that_rebuilds_is_one_that_build_engine_takes(tmp_path: Path) -> None:
    recipe = make_recipe(cpu=("x86-64-v3", "neoverse_v1"), max_seq_len=100, max_logit_rows=70, cxx="clang").record()
    command = rebuild_command(recipe, "cpu", tmp_path / "an engine", max_seq_len=64)
    name, *arguments = shlex.split(command)
    assert name == "inflight"
    assert {"--cpu", "x86-64-v3,neoverse_v1", "--max-seq-len", "64", str(tmp_path / "an engine")} <= set(arguments)
    result = CliRunner().invoke(build_app(["build-engine", "inspect"]), arguments)
    assert isinstance(result.exception, CheckpointError), "every flag is known, and CKPT is not a checkpoint"
