"""The cuda target's compile step: every kernel for every generation, the same bytes, no spills in the decode path."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inflight.build.gpu_kernels.architectures import ARCHITECTURES, SMS
from inflight.build.gpu_kernels.cache import ArtifactCache, modules_of
from inflight.build.gpu_kernels.compile import CompileJob, compile_kernels, compiling
from inflight.build.gpu_kernels.spec import Argument, KernelSpec, Tuning
from inflight.build.gpu_kernels.toolchain import triton_version
from inflight.build.gpu_kernels.variants import FLOAT8
from inflight.engine_format.gpu_artifact import Artifact, ArtifactExtent
from inflight.errors import BuildError
from tests.kernel.gpu.support.cuda_launch import SPECS
from tests.kernel.gpu.support.early_launch import touched_before_the_wait

pytestmark = pytest.mark.kernel

# Kernels of prompts and generations of which a variant does, whatever was tried (docs/targets/cuda.md).
SPILLING = {"latent_prefill": (90, 100, 120), "paged_prefill": (86, 89, 120)}


def assert_usable(artifact: Artifact, spec: KernelSpec) -> None:
    limits = {architecture.sm: architecture.shared_bytes for architecture in ARCHITECTURES}
    title = f"{artifact.kernel} for sm_{artifact.sm}, {artifact.types} {artifact.constants}"
    assert artifact.cubin[:4] == b"\x7fELF" and artifact.entry.encode() in artifact.cubin, title
    assert artifact.shared_bytes <= limits[artifact.sm], title
    assert artifact.registers * artifact.threads <= 65536, title
    # Launched before the launch before it has ended, it touches no memory before that has.
    assert artifact.waits == (artifact.sm >= 90), title
    assert not artifact.waits or not touched_before_the_wait(artifact.ptx), title
    if spec.decode_path or artifact.sm not in SPILLING.get(artifact.kernel, ()):
        assert not artifact.spill_store_bytes and not artifact.spill_load_bytes, f"{title} spills"


def test_every_kernel_compiles_for_hopper_and_one_more_generation() -> None:
    """One variant each; the slow test has them all."""
    specs = list(SPECS.values())
    jobs = [CompileJob(spec, spec.variants[0], 90) for spec in specs]
    jobs += [CompileJob(spec, spec.variants[0], SMS[index % len(SMS)]) for index, spec in enumerate(specs)]
    # With as few registers as ptxas wants to use there, it spills.
    jobs.append(CompileJob(SPECS["head_linear"], SPECS["head_linear"].variants[3], 86))
    for job, artifact in zip(jobs, compile_kernels(jobs, cache=ArtifactCache()), strict=True):
        assert_usable(artifact, job.spec)


@pytest.mark.slow
@pytest.mark.parametrize("function", SPECS)
def test_every_variant_compiles_for_every_generation(function: str) -> None:
    spec = SPECS[function]
    jobs = [CompileJob(spec, variant, sm) for variant in spec.variants for sm in SMS]
    for artifact in compile_kernels(jobs, cache=ArtifactCache()):
        assert_usable(artifact, spec)


def test_the_same_bytes_from_build_to_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order, the directory, the number of processes, the user's own settings of the compiler, and the
    generations that are compiled beside one."""
    jobs = [
        CompileJob(SPECS[name], SPECS[name].variants[0], sm)
        for name in ("rope_cache_write", "rms_norm")
        for sm in (80, 89, 90)
    ]
    first = compile_kernels(jobs, workers=2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    assert compile_kernels(jobs[::-1], workers=1) == first[::-1]
    assert compile_kernels(jobs[1::3], workers=1) == first[1::3]
    assert not (tmp_path / "triton").exists()


def test_generations_share_code_but_for_8_bit_floats() -> None:
    """Nobody compiles twice what is the same, and nobody gets what it has no instructions for."""
    plain, float8 = SPECS["rms_norm"], SPECS["paged_decode"]
    (eight,) = [each for each in float8.variants if each.constants["cache_format"] == FLOAT8][:1]
    jobs = [
        CompileJob(spec, each, sm) for spec, each in ((plain, plain.variants[0]), (float8, eight)) for sm in (80, 89)
    ]
    one, same, widened, native = compile_kernels(jobs, cache=ArtifactCache())
    assert one.ptx == same.ptx and one.cubin != same.cubin
    assert ".target sm_80" in widened.ptx and "e4m3" not in widened.ptx
    assert ".target sm_89" in native.ptx and "e4m3" in native.ptx


def test_where_registers_spill_another_tuning_is_taken() -> None:
    spec = SPECS["paged_prefill"]
    variant = spec.variants[5]
    (artifact,) = compile_kernels([CompileJob(spec, variant, 86)], cache=ArtifactCache())
    first = spec.tune(86, variant)
    assert first.instead is not None and artifact.num_stages == first.instead.num_stages < first.num_stages
    assert artifact.spill_store_bytes == artifact.spill_load_bytes == 0


def test_compilers_end_with_what_they_are_started_for() -> None:
    """They are at work while something else is done; when that fails, nobody waits for them."""
    before = children()
    with pytest.raises(OSError), compiling([CompileJob(SPECS["rms_norm"], SPECS["rms_norm"].variants[0], 80)]):
        assert children() - before
        raise OSError
    assert children() <= before


def children() -> set[int]:
    """The processes that this one has started."""
    return {int(each) for path in Path("/proc/self/task").glob("*/children") for each in path.read_text().split()}


def test_the_same_code_gives_the_same_bytes_wherever_the_assembler_has_its_memory() -> None:
    """Of this kernel it had two results, each in half of all runs."""
    from inflight.build.gpu_kernels.compiler.assembler import assemble, fix_addresses

    with multiprocessing.get_context("spawn").Pool(1) as process:
        if not process.apply(fix_addresses):
            pytest.skip("this process may not ask for the same addresses each time")
        (artifact,) = compile_kernels(
            [CompileJob(SPECS["linear"], SPECS["linear"].variants[3], 100)], cache=ArtifactCache()
        )
        results = {assemble(artifact.ptx, 100)[0] for _ in range(8)}
    assert results == {artifact.cubin}


def test_no_path_of_this_machine_is_in_a_cubin() -> None:
    spec = SPECS["rope_cache_write"]
    artifact = compile_kernels([CompileJob(spec, spec.variants[0], 90)], cache=ArtifactCache())[0]
    assert b".py" not in artifact.cubin and str(Path.home()).encode() not in artifact.cubin


def test_the_cache_answers_what_it_was_given_and_no_damaged_file(tmp_path: Path) -> None:
    cache, spec = ArtifactCache(tmp_path), SPECS["combine_splits"]
    job = CompileJob(spec, spec.variants[0], 80)
    artifact = compile_kernels([job], cache=cache)[0]
    (file,) = tmp_path.iterdir()
    assert cache.load(file.stem) == artifact
    file.write_bytes(file.read_bytes()[:-100])
    assert cache.load(file.stem) is None
    assert compile_kernels([job], cache=cache) == [artifact]


def test_the_key_of_the_cache_is_all_that_decides_the_bytes(tmp_path: Path) -> None:
    cache, spec = ArtifactCache(tmp_path), SPECS["paged_decode"]
    keys = {cache.key(spec, variant, sm) for variant in spec.variants for sm in SMS}
    assert len(keys) == len(spec.variants) * len(SMS)
    assert cache.key(spec, spec.variants[0], 80) in keys
    retuned = dataclasses.replace(spec, tune=lambda sm, variant: Tuning(num_warps=1))
    assert cache.key(retuned, spec.variants[0], 80) not in keys


def test_constants_that_kernels_import_are_in_the_key() -> None:
    """Some are baked in: the number of digits that a search takes is sampling_chain's."""
    target = "inflight.build.gpu_kernels"
    assert f"{target}.sampling_chain" in modules_of(f"{target}.kernels.sampling_draw")


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spec = SPECS["combine_splits"]
    (artifact,) = compile_kernels([CompileJob(spec, spec.variants[0], 80)], cache=ArtifactCache(tmp_path / "file"))
    assert_usable(artifact, spec)


def test_without_triton_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    triton_version.cache_clear()
    try:
        with pytest.raises(BuildError, match=r"inflight-llm\[cuda-compile\]"):
            compile_kernels([CompileJob(SPECS["rms_norm"], SPECS["rms_norm"].variants[0], 80)])
    finally:
        triton_version.cache_clear()


def test_a_grid_is_rounded_up_and_multiplied() -> None:
    axes = (
        (ArtifactExtent(size="rows", per=16), ArtifactExtent(size=3, per=1)),
        (ArtifactExtent(size="tiles", per=1),),
    )
    artifact = compile_kernels(
        [CompileJob(SPECS["rms_norm"], SPECS["rms_norm"].variants[0], 80)], cache=ArtifactCache()
    )[0].model_copy(update={"grid": axes})
    assert artifact.grid_for({"rows": 17, "tiles": 5}) == (6, 5, 1)
    assert artifact.grid_for({"rows": 0, "tiles": 5}) == (0, 5, 1)


def test_errors_name_the_kernel_and_what_is_wrong() -> None:
    spec = SPECS["combine_splits"]
    with pytest.raises(BuildError, match=r"sm_75 .*\n?.*80 \(A100"):
        compile_kernels([CompileJob(spec, spec.variants[0], 75)])
    tuned_by_card = SPECS["weight_only"]
    with pytest.raises(BuildError, match="sm_75"):
        compile_kernels([CompileJob(tuned_by_card, tuned_by_card.variants[0], 75)], cache=ArtifactCache())
    wrong = dataclasses.replace(spec, arguments=(*spec.arguments, Argument("surplus", "i32")))
    with pytest.raises(BuildError, match=r"combine_splits .*differ: surplus"):
        compile_kernels([CompileJob(wrong, spec.variants[0], 80)])


def test_nothing_but_compiling_imports_triton() -> None:
    code = """
import sys
import inflight.cli.main
import inflight.build.gpu_kernels.cache, inflight.build.gpu_kernels.compile
import inflight.runtime.executors.gpu.kernel
assert not [name for name in sys.modules if name.split(".")[0] in ("triton", "cuda", "torch")]
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
