"""One engine directory for two instruction sets: what Arm computes, under emulation, is what this machine computes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from inflight.build.targets.cpu.compiler.compile import KERNELS
from inflight.build.targets.cpu.compiler.toolchain import zig_command, zig_environment
from inflight.engine_format.cpu_facts import CpuFacts
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.loading.load import load_engine
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch
from tests.engines.built_engine import BuiltEngine, build_random_engine

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
SYSROOT = Path("/usr/aarch64-linux-gnu")
STEPS = 24

needs_emulator = pytest.mark.skipif(
    EMULATOR is None or not (SYSROOT / "lib/ld-linux-aarch64.so.1").exists(),
    reason="needs qemu-aarch64 and Arm's C library: apt install qemu-user libc6-arm64-cross",
)


def emulated(built: BuiltEngine, prompt: tuple[int, ...], scratch: Path) -> tuple[list[int], npt.NDArray[np.float32]]:
    """Greedy tokens and logits float32 [STEPS, vocab] of the Arm library under qemu."""
    manifest = read_engine_directory(built.directory).manifest
    variant = next(variant for variant in CpuFacts.of(manifest).variants if variant.cpu == "neoverse_v1")
    harness = scratch / "foreign_step"
    compiler = [*zig_command(), "cc", "-target", "aarch64-linux-gnu.2.17", "-O1", f"-I{KERNELS}", "-ldl"]
    source = Path(__file__).with_name("foreign_step.c")
    subprocess.run([*compiler, str(source), "-o", str(harness)], check=True, env=zig_environment())
    num_blocks = -(-(len(prompt) + STEPS) // manifest.kv_cache.tokens_per_block)
    sizes = [num_blocks * manifest.kv_cache.bytes_per_block, num_blocks, manifest.memory.workspace_bytes]
    numbers = [*sizes, manifest.model.vocab_size, 2, STEPS, *prompt]
    files = [str(built.directory / variant.file), str(built.directory / "rank0.weights")]
    command = [str(EMULATOR), "-L", str(SYSROOT), "-cpu", "max", str(harness), *files, *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    bits = np.array([[int(word, 16) for word in line[1:]] for line in lines], np.uint32)
    return [int(line[0]) for line in lines], bits.view(np.float32)


def native(built: BuiltEngine, prompt: tuple[int, ...]) -> tuple[list[int], npt.NDArray[np.float32]]:
    """The same through the library of this machine."""
    executor = load_engine(built.directory, threads=2)
    tokens, rows, ids, start = [], [], list(prompt), 0
    blocks = list(range(-(-(len(prompt) + STEPS) // executor.manifest.kv_cache.tokens_per_block)))
    for _ in range(STEPS):
        sequence = ScheduledSequence(0, ids, start, blocks, RowSampling(), sample_last=True)
        output, logits = executor.execute_with_logits(StepBatch([sequence]))  # type: ignore[attr-defined]
        rows.append(logits[0].copy())
        start += len(ids)
        sampled = output.results[0].sampled
        ids = [sampled.token_id]
        tokens.append(sampled.token_id)
    executor.close()
    return tokens, np.stack(rows)


@needs_emulator
@pytest.mark.parametrize(("family", "cache"), [("llama", "auto"), ("mistral", "auto"), ("qwen3", "int8")])
def test_a_float32_engine_gives_the_same_bits_on_arm(
    family: str, cache: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    levels = ("native", "neoverse_v1")
    built = build_random_engine(tmp_path, family, torch.float32, cpu=levels, kv_cache_dtype=cache, max_seq_len=384)
    prompt = built.random_prompt(rng, 260)
    tokens, logits = native(built, prompt)
    arm_tokens, arm_logits = emulated(built, prompt, tmp_path)
    assert arm_tokens == tokens
    np.testing.assert_array_equal(arm_logits.view(np.uint32), logits.view(np.uint32))


@needs_emulator
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_engine_gives_the_same_logits_on_arm(
    dtype: torch.dtype, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Up to the order within a pair of products, which VDPBF16PS decides where the machine has it."""
    built = build_random_engine(tmp_path, "qwen2", dtype, cpu=("native", "neoverse_v1"), max_seq_len=256)
    prompt = built.random_prompt(rng, 37)
    _, logits = native(built, prompt)
    _, arm_logits = emulated(built, prompt, tmp_path)
    assert np.abs(arm_logits[0] - logits[0]).max() < 0.02 * logits[0].std()
