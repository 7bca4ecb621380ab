"""An engine that was built here for another architecture computes the same bits there (under qemu-user)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from inflight.build.engine import build_engine, plan_engine
from inflight.build.network.network import build_network
from inflight.build.passes.pipeline import lower_for_cpu
from inflight.build.recipe import BuildRecipe
from inflight.build.targets.cpu.compile import KERNELS
from inflight.build.targets.cpu.cpu_levels import find_level
from inflight.build.targets.cpu.emitter import emit
from inflight.build.targets.cpu.toolchain import zig_command, zig_environment
from inflight.build.targets.cpu.weight_layout import WeightLayout
from inflight.convert.api import convert_model
from inflight.convert.checkpoint import Checkpoint
from inflight.convert.options import ConvertOptions
from tests.models import random_shape, save_random_model

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

RUNNER = Path(__file__).with_name("greedy_runner.c")
RECIPE = BuildRecipe(cpu=("x86-64-v3", "neoverse_v1"), max_batch_size=1, max_seq_len=96, max_num_tokens=64)
STEPS = 16


def _program(source: str, triple: str, level: str, directory: Path) -> Path:
    """The engine and its runner as a static program, which needs no C library of the other architecture."""
    directory.mkdir()
    (directory / "engine.c").write_text(source)
    shutil.copy(RUNNER, directory)
    flags = ["-std=gnu11", "-O3", "-ffp-contract=off", "-static", f"-I{KERNELS}", "-I.", "-lm"]
    target = ["-target", triple, f"-mcpu={find_level(level).zig_cpu}"]
    command = [*zig_command(), "cc", *target, *flags, RUNNER.name, "-o", "program"]
    subprocess.run(command, cwd=directory, check=True, env=zig_environment())
    return directory / "program"


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_an_arm_engine_built_here_gives_the_same_tokens_and_logits(
    family: str, rng: np.random.Generator, seed: int, tmp_path: Path
) -> None:
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if qemu is None:
        pytest.skip("qemu-user for aarch64 is not installed")
    shape = random_shape(rng, family)
    save_random_model(tmp_path / "model", shape, seed)
    convert_model(tmp_path / "model", tmp_path / "ckpt", ConvertOptions())
    build_engine(tmp_path / "ckpt", tmp_path / "engine", RECIPE)
    facts = plan_engine(tmp_path / "ckpt", RECIPE).target
    checkpoint = Checkpoint.open(tmp_path / "ckpt")
    limits, tokens_per_block = facts.recipe.limits, facts.recipe.tokens_per_block
    network = build_network(checkpoint, limits.max_seq_len)
    graph = lower_for_cpu(network, limits, tokens_per_block=tokens_per_block, kv_dtype="float32").graph
    source = emit(graph, WeightLayout(graph), limits, tokens_per_block).text
    prompt = tmp_path / "prompt"
    rng.integers(0, shape.vocab_size, 37).astype(np.int32).tofile(prompt)
    results = []
    for name, triple, level, prefix in (
        ("here", "x86_64-linux-musl", "x86-64-v3", []),
        ("there", "aarch64-linux-musl", "neoverse_v1", [qemu, "-cpu", "max"]),
    ):
        program = _program(source, triple, level, tmp_path / name)
        sizes = [str(STEPS), str(facts.kv_cache.bytes_per_block), str(facts.memory.workspace_bytes)]
        arguments = [str(tmp_path / "engine" / "rank0.weights"), str(prompt), str(tmp_path / f"{name}.out"), *sizes]
        subprocess.run([*prefix, str(program), *arguments], check=True)
        results.append((tmp_path / f"{name}.out").read_bytes())
    assert len(results[0]) == STEPS * 4 * (1 + shape.vocab_size)
    assert results[0] == results[1]
