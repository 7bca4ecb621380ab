"""Blocks that leave the KV cache and come back: the same answers, with fewer tokens computed, whatever happens."""

from __future__ import annotations

import errno
import logging
import os
import random
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inflight.errors import EngineError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.null.executor import NullExecutor, null_manifest
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import StepBatch, StepOutput
from tests.unit.runtime.kv_cache.asking import BLOCK, COPY, PROMPT, ask, new_core
from tests.unit.runtime.scheduler_histories import History

pytestmark = pytest.mark.unit


def _play(seed: int, count: int, place: Path) -> None:
    seeds = random.Random(seed)
    for turn in range(count):
        history_seed, directory = seeds.getrandbits(63), place / str(turn)
        try:
            history = History(history_seed, directory)
            history.run()
            for _ in range(2):
                if seeds.random() < 0.7:
                    history.core.close()
                else:  # killed: nothing of the cache is kept in addition
                    offload = history.core._blocks.offload
                    if offload is not None:
                        offload.close()
                history.start()
                history.run()
            history.core.close()
            assert sum(each.stat().st_size for each in directory.iterdir()) <= history.offload.bytes  # type: ignore[union-attr]
        except Exception as error:
            raise AssertionError(f"History({history_seed}, directory) fails: {error}") from error
        shutil.rmtree(directory)


def test_whatever_leaves_the_cache_and_comes_back_requests_are_answered_as_if_alone(seed: int, tmp_path: Path) -> None:
    """The null target's cache refuses a step that sees a block with other contents than it should have."""
    _play(seed, 150, tmp_path)


@pytest.mark.slow
def test_long_runs_of_histories_with_files(seed: int, tmp_path: Path) -> None:
    _play(seed, 5_000, tmp_path)


def test_what_was_evicted_is_found(prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path) -> None:
    core = new_core(tmp_path)
    for expected in ([0] * 6, [PROMPT - 1] * 6):
        answers = [ask(core, prompt) for prompt in prompts]
        assert answers == list(zip(alone, expected, strict=True))
    core.close()


def test_a_restart_finds_what_was_evicted_and_what_was_cached(
    prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path
) -> None:
    core = new_core(tmp_path)
    assert [ask(core, prompt)[0] for prompt in prompts] == alone
    core.close()
    core.close()
    core = new_core(tmp_path)
    assert [ask(core, prompt) for prompt in prompts] == [(tokens, PROMPT - 1) for tokens in alone]
    core.close()


def test_tenants_stay_apart(prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path) -> None:
    core = new_core(tmp_path)
    ask(core, prompts[0], cache_salt="one")
    core.close()
    core = new_core(tmp_path)
    assert ask(core, prompts[0], cache_salt="two") == (alone[0], 0)
    assert ask(core, prompts[0]) == (alone[0], 0)
    assert ask(core, prompts[0], cache_salt="one") == (alone[0], PROMPT - 1)
    core.close()


def test_another_engine_reads_nothing(prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path) -> None:
    core = new_core(tmp_path)
    ask(core, prompts[0])
    core.close()
    core = new_core(tmp_path, max_num_tokens=64)
    assert ask(core, prompts[0]) == (alone[0], 0)
    core.close()


def test_with_room_for_a_few_blocks_the_start_of_a_prefix_stays(
    prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path
) -> None:
    core = new_core(tmp_path, most_bytes=52 + 3 * (COPY + 48))
    ask(core, prompts[0])
    core.close()
    core = new_core(tmp_path, most_bytes=52 + 3 * (COPY + 48))
    assert ask(core, prompts[0]) == (alone[0], 3 * BLOCK)
    core.close()


def test_damaged_blocks_are_computed_again(
    prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    core = new_core(tmp_path)
    ask(core, prompts[0])
    core.close()
    blocks = bytearray((tmp_path / "blocks").read_bytes())
    blocks[random.Random(seed).randrange(len(blocks))] ^= 255
    (tmp_path / "blocks").write_bytes(blocks)
    core = new_core(tmp_path)
    tokens, found = ask(core, prompts[0])
    assert tokens == alone[0] and found % BLOCK == 0
    assert (found < PROMPT - 1) == ("damaged" in caplog.text)
    core.close()


@contextmanager
def _disk_full_after(most: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_switches_offloading_off_with_one_warning(
    prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Full from the beginning, in the middle of a copy or of an entry, or at the close."""
    draw = random.Random(seed)
    whole = 6 * (PROMPT // BLOCK) * COPY
    for turn in range(12):
        caplog.clear()
        with caplog.at_level(logging.WARNING), _disk_full_after(0 if turn == 0 else draw.randrange(whole)):
            core = new_core(tmp_path / str(turn))
            for _ in range(2):
                assert [ask(core, prompt)[0] for prompt in prompts] == alone
            core.close()
        assert len(caplog.records) == 1 and os.strerror(errno.EFBIG) in caplog.text
        core = new_core(tmp_path / str(turn))
        assert [ask(core, prompt)[0] for prompt in prompts] == alone
        core.close()


def test_a_directory_that_disappears_harms_nobody(
    prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path
) -> None:
    core = new_core(tmp_path / "it")
    ask(core, prompts[0])
    shutil.rmtree(tmp_path / "it")
    assert [ask(core, prompt)[0] for prompt in prompts + prompts] == alone + alone
    core.close()


def test_files_that_shrink_under_a_server_harm_nobody(
    prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path
) -> None:
    core = new_core(tmp_path)
    assert [ask(core, prompt)[0] for prompt in prompts] == alone
    os.truncate(tmp_path / "blocks", COPY // 2)
    assert [ask(core, prompt)[0] for prompt in prompts] == alone
    core.close()


class _FailsLater(NullExecutor):
    failing = False

    def execute(self, batch: StepBatch) -> StepOutput:
        if self.failing:
            raise RuntimeError("the device is gone")
        return super().execute(batch)


def test_after_a_failed_step_nothing_more_is_kept(prompts: list[tuple[int, ...]], tmp_path: Path) -> None:
    executor = _FailsLater(null_manifest(tokens_per_block=BLOCK, max_seq_len=48), 16)
    core = EngineCore(executor, offload=KvOffload(tmp_path))
    ask(core, prompts[0])
    executor.failing = True
    with pytest.raises(RuntimeError):
        ask(core, prompts[1])
    core.abort("error")
    core.close()
    core = new_core(tmp_path)
    assert ask(core, prompts[0])[1] == 0
    core.close()


def test_what_cannot_be_kept_is_refused_with_the_reason(tmp_path: Path) -> None:
    class Plain:
        manifest, num_blocks = null_manifest(), 8

    with pytest.raises(EngineError, match="target null cannot offload"):
        EngineCore(Plain(), offload=KvOffload(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="prefix cache, which is off"):
        off = SchedulerConfig(enable_prefix_caching=False)
        EngineCore(NullExecutor(null_manifest(), 8), off, offload=KvOffload(tmp_path))
    with pytest.raises(EngineError, match="one block takes 128"):
        new_core(tmp_path, most_bytes=127)
    new_core(tmp_path, most_bytes=128).close()
    with pytest.raises(EngineError, match="at least 1"):
        KvOffload(tmp_path, 0)
    with pytest.raises(EngineError, match="one block takes 28"):
        EngineCore(NullExecutor(null_manifest(tokens_per_block=BLOCK), 8), offload=KvOffload(None, 27))
    assert KvOffload.of(None, None) is None
