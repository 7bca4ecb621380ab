"""build-engine: the same bytes each time, plans that write nothing, refusals that say why, the library's checks."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from inflight.build.engine import build_engine, plan_build, plan_engine
from inflight.build.registry import make_recipe
from inflight.build.targets.cpu.compiler.kept_code import VARIABLE
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.engine_format.cpu_abi import Batch, Output, open_library
from inflight.engine_format.cpu_facts import CpuFacts
from inflight.errors import BuildError, InflightError
from inflight.files.scratch import scratch_directory
from tests.models.random_models import Shape, random_shape, save_random_model
from tests.models.ropes import random_rope
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.pipeline

RECIPE = make_recipe(max_batch_size=3, max_seq_len=64, max_num_tokens=8, max_logit_rows=4, tokens_per_block=16)
_OK, _LIMIT, _NO_THREADS, _NO_FILE = 0, 1, 2, 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoint")
    rng = np.random.default_rng()
    save_random_model(root / "model", random_shape(rng, "qwen2"), int(rng.integers(1, 2**31)))
    convert_model(root / "model", root / "ckpt", ConvertOptions())
    return root / "ckpt"


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Path:
    build_engine(checkpoint, checkpoint.parent / "engine", RECIPE)
    return checkpoint.parent / "engine"


def _contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_two_builds_in_different_directories_are_the_same_bytes(
    engine: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "0")  # compiled twice
    build_engine(checkpoint, tmp_path / "deeper" / "other", RECIPE)
    assert _contents(tmp_path / "deeper" / "other") == _contents(engine)


def test_the_manifest_digests_every_other_file(checkpoint: Path, tmp_path: Path) -> None:
    manifest = build_engine(checkpoint, tmp_path / "engine", RECIPE)
    contents = _contents(tmp_path / "engine")
    del contents["manifest.json"]
    assert {name: facts.sha256 for name, facts in manifest.files.items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in contents.items()
    }
    assert {variant.file for variant in CpuFacts.of(manifest).variants} < set(contents)
    assert manifest.memory.weights_bytes == len(contents["rank0.weights"])


def test_a_plan_says_what_the_build_will_say_and_writes_nothing(engine: Path, checkpoint: Path) -> None:
    before = sorted(checkpoint.parent.rglob("*"))
    plan = plan_engine(checkpoint, RECIPE)
    assert plan.target.memory.weights_bytes == (engine / "rank0.weights").stat().st_size
    assert sorted(checkpoint.parent.rglob("*")) == before


def test_a_rotary_base_that_is_left_out_is_said(checkpoint: Path, tmp_path: Path) -> None:
    """A model of another base would answer, wrongly; ours always name theirs."""
    assert not plan_build(checkpoint, RECIPE).notes
    without = tmp_path / "ckpt"
    shutil.copytree(checkpoint, without)
    config = json.loads((without / "config.json").read_text())
    del config["rotary_base"]
    (without / "config.json").write_text(json.dumps(config))
    (note,) = plan_build(without, RECIPE).notes
    assert "no rotary_base" in note and "rope_theta" in note


def test_what_a_killed_build_left_is_removed_by_the_next(checkpoint: Path, tmp_path: Path) -> None:
    tmp, output = tmp_path / "tmp", tmp_path / "out" / "engine"
    tmp.mkdir()
    # A level of another machine: the kernels take seconds to compile, and no other test has done it.
    command = [sys.executable, "-c", "from inflight.cli.main import main; main()", "build-engine", "--cpu", "x86-64-v3"]
    command += ["--checkpoint-dir", str(checkpoint), "-o", str(output)]
    environment = {**os.environ, "TMPDIR": str(tmp)}

    def compiling() -> bool:
        return any(tmp.glob(".compile.*/engine.c"))

    with scratch_directory(tmp, "compile") as living:
        killed = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert eventually(lambda: compiling() or killed.poll() is not None) and compiling()
        killed.kill()
        assert killed.wait(PATIENCE_S) == -signal.SIGKILL and compiling() and any(output.parent.iterdir())
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE_S)
        assert [*tmp.iterdir(), *output.parent.iterdir()] == [living, output]


def test_the_command_takes_the_names_of_other_tools(checkpoint: Path) -> None:
    flags = ["--checkpoint_dir", str(checkpoint), "--max-num-seqs", "5", "--max_seq_len", "33", "--block-size", "48"]
    result = CliRunner().invoke(build_app(), ["build-engine", *flags, "--cpu", "x86-64-v3,neoverse_v1", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "x86-64-v3, neoverse_v1" in result.output and "48 tokens per block" in result.output


def test_several_levels_share_one_engine(checkpoint: Path, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"cpu": ("x86-64-v3", "x86-64-v4")})
    manifest = build_engine(checkpoint, tmp_path / "engine", recipe)
    assert [variant.cpu for variant in CpuFacts.of(manifest).variants] == ["x86-64-v4", "x86-64-v3"]
    assert all((tmp_path / "engine" / variant.file).is_file() for variant in CpuFacts.of(manifest).variants)


def test_bad_values_are_reported_together(checkpoint: Path) -> None:
    recipe = make_recipe(max_seq_len=10**6, tokens_per_block=20)
    with pytest.raises(BuildError, match=r"(?s)--tokens-per-block 20.*--max-seq-len 1000000"):
        plan_engine(checkpoint, recipe)


def test_rope_that_changes_with_the_length_bounds_the_engine(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    """longrope has other angles for longer sequences; dynamic scaling begins where the model's own length ends."""
    shape = Shape(rope=random_rope(rng, "longrope", 24) | {"original_max_position_embeddings": 90})
    save_random_model(tmp_path / "model", shape, seed)
    convert_model(tmp_path / "model", tmp_path / "ckpt", ConvertOptions())
    recipe = make_recipe(target="reference")
    assert plan_engine(tmp_path / "ckpt", recipe).limits.max_seq_len == 90
    with pytest.raises(BuildError, match=r"--max-seq-len 91: at most 90.*longrope"):
        plan_engine(tmp_path / "ckpt", recipe.model_copy(update={"max_seq_len": 91}))
    save_random_model(tmp_path / "dynamic", Shape(rope=random_rope(rng, "dynamic", 24)), seed)
    convert_model(tmp_path / "dynamic", tmp_path / "dynamic-ckpt", ConvertOptions())
    assert plan_engine(tmp_path / "dynamic-ckpt", recipe).limits.max_seq_len == Shape().max_positions
    with pytest.raises(BuildError, match="the model knows 512 positions"):
        plan_engine(tmp_path / "dynamic-ckpt", recipe.model_copy(update={"max_seq_len": 513}))


def test_other_targets_than_tensorrt_have_a_paged_cache_already(checkpoint: Path) -> None:
    for target in ("cpu", "reference"):
        recipe = make_recipe(target, max_seq_len=64, kv_cache_type="paged")
        assert plan_engine(checkpoint, recipe).target.recipe.kv_cache_type == "paged"
        refused = rf"--kv-cache-type continuous: it is for --target tensorrt; .* {target} is paged"
        with pytest.raises(BuildError, match=refused):
            plan_engine(checkpoint, recipe.model_copy(update={"kv_cache_type": "continuous"}))


def test_a_checkpoint_of_several_ranks_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    convert_model(checkpoint.parent / "model", tmp_path / "split", ConvertOptions(pp_size=2))
    with pytest.raises(BuildError, match="2 ranks"):
        plan_engine(tmp_path / "split", make_recipe())


def test_an_engine_that_exists_is_not_replaced_unasked(engine: Path, checkpoint: Path) -> None:
    before = _contents(engine)
    with pytest.raises(InflightError, match="already exists"):
        build_engine(checkpoint, engine, RECIPE)
    assert _contents(engine) == before


class _Library:
    """An opened engine with memory of its own, called below the executor's checks."""

    def __init__(self, engine: Path, checkpoint: Path, threads: int) -> None:
        facts = plan_engine(checkpoint, RECIPE).target
        (path,) = engine.glob("rank0.*.engine")
        self.library = open_library(path)
        self.num_blocks = 4
        self.cache = _aligned(self.num_blocks * facts.kv_cache.bytes_per_block)
        self.memory = [_aligned(facts.memory.weights_bytes), self.cache, _aligned(facts.memory.workspace_bytes)]
        self.memory[0][:] = np.fromfile(engine / "rank0.weights", np.uint8)
        weights, cache, workspace = (array.ctypes.data for array in self.memory)
        self.file = os.open(engine / "rank0.weights", os.O_RDONLY)
        self.handle = self.library.inflight_open(weights, self.file, cache, self.num_blocks, workspace, threads)

    def step(self, tokens: list[int], context: int = 0, blocks: tuple[int, ...] = (2, 1, 3, 0)) -> int:
        arrays = [np.array(x, np.int32) for x in (tokens, [0, len(tokens)], [context], blocks)]
        pointers = [array.ctypes.data for array in arrays]
        batch = Batch(1, len(tokens), 0, len(blocks), *pointers, 0, 0)
        return int(self.library.inflight_step(self.handle, ctypes.byref(batch), ctypes.byref(Output())))

    def close(self) -> None:
        self.library.inflight_close(self.handle)
        os.close(self.file)


def _aligned(size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


def test_a_batch_beyond_a_limit_computes_nothing(engine: Path, checkpoint: Path) -> None:
    library = _Library(engine, checkpoint, threads=1)
    vocab = plan_engine(checkpoint, RECIPE).model.vocab_size
    assert library.step([1] * 9) == _LIMIT
    assert library.step([vocab]) == _LIMIT
    assert library.step([-1]) == _LIMIT
    assert library.step([1], context=64) == _LIMIT
    assert library.step([1], context=-1) == _LIMIT
    assert library.step([1], blocks=(4,)) == _LIMIT
    assert library.step([1], context=16, blocks=(1,)) == _LIMIT
    assert not library.cache.any()
    assert library.step([1] * 8) == _OK
    assert library.cache.any()
    library.close()


def test_a_step_without_its_weights_file_says_so(tmp_path: Path, seed: int) -> None:
    save_random_model(tmp_path / "model", Shape(tied=False), seed)
    convert_model(tmp_path / "model", tmp_path / "ckpt", ConvertOptions())
    build_engine(tmp_path / "ckpt", tmp_path / "engine", RECIPE)
    library = _Library(tmp_path / "engine", tmp_path / "ckpt", threads=2)
    assert library.step([5, 6, 7]) == _OK
    os.truncate(tmp_path / "engine" / "rank0.weights", 1)
    assert library.step([5, 6, 7]) == _NO_FILE
    library.close()


def test_two_engines_live_in_one_process(engine: Path, checkpoint: Path) -> None:
    first, second = (_Library(engine, checkpoint, threads=2) for _ in range(2))
    for tokens in ([5, 6, 7], [1], [2, 3]):
        assert first.step(tokens) == second.step(tokens) == _OK
        np.testing.assert_array_equal(first.cache, second.cache)
    first.close()
    assert second.step([9]) == _OK
    second.close()


def test_a_forked_child_can_close_what_it_inherited_but_not_run_it(engine: Path, checkpoint: Path) -> None:
    library = _Library(engine, checkpoint, threads=2)
    assert library.step([1, 2]) == _OK
    child = os.fork()
    if child == 0:
        status = library.step([1, 2])
        library.close()
        os._exit(0 if status == _NO_THREADS else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert library.step([3], context=2) == _OK
    library.close()
