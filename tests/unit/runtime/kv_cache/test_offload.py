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
from typing import Any

import pytest

from inflight.errors import EngineError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.null.executor import NullExecutor, null_manifest
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import StepBatch, StepOutput
from tests.unit.runtime.scheduler_histories import History

pytestmark = pytest.mark.unit

BLOCK, PROMPT = 4, 33
# Of the null target: 12 bytes and 4 for each token.
COPY = 12 + 4 * BLOCK


def _core(place: Path | None, num_blocks: int = 16, most_bytes: int = 1 << 20, **limits: Any) -> EngineCore:
    manifest = null_manifest(tokens_per_block=BLOCK, max_seq_len=48, **limits)
    offload = None if place is None else KvOffload(place, most_bytes)
    return EngineCore(NullExecutor(manifest, num_blocks), offload=offload)


def _ask(core: EngineCore, prompt: tuple[int, ...], **params: Any) -> tuple[list[int], int]:
    """The answer, and how many tokens of the prompt were found."""
    core.add_request(Request("it", prompt, SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, **params)))
    tokens: list[int] = []
    found = -1
    while core.has_unfinished():
        for delta in core.step():
            tokens += delta.token_ids
            if delta.metrics is not None:
                found = delta.metrics.cached_tokens
    return tokens, found


@pytest.fixture
def prompts(seed: int) -> list[tuple[int, ...]]:
    draw = random.Random(seed)
    return [tuple(draw.randrange(257) for _ in range(PROMPT)) for _ in range(6)]


@pytest.fixture
def alone(prompts: list[tuple[int, ...]]) -> list[list[int]]:
    return [_ask(_core(None), prompt)[0] for prompt in prompts]


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
    core = _core(tmp_path)
    for expected in ([0] * 6, [PROMPT - 1] * 6):
        answers = [_ask(core, prompt) for prompt in prompts]
        assert answers == list(zip(alone, expected, strict=True))
    core.close()


def test_a_restart_finds_what_was_evicted_and_what_was_cached(
    prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path
) -> None:
    core = _core(tmp_path)
    assert [_ask(core, prompt)[0] for prompt in prompts] == alone
    core.close()
    core.close()
    core = _core(tmp_path)
    assert [_ask(core, prompt) for prompt in prompts] == [(tokens, PROMPT - 1) for tokens in alone]
    core.close()


def test_tenants_stay_apart(prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path) -> None:
    core = _core(tmp_path)
    _ask(core, prompts[0], cache_salt="one")
    core.close()
    core = _core(tmp_path)
    assert _ask(core, prompts[0], cache_salt="two") == (alone[0], 0)
    assert _ask(core, prompts[0]) == (alone[0], 0)
    assert _ask(core, prompts[0], cache_salt="one") == (alone[0], PROMPT - 1)
    core.close()


def test_another_engine_reads_nothing(prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path) -> None:
    core = _core(tmp_path)
    _ask(core, prompts[0])
    core.close()
    core = _core(tmp_path, max_num_tokens=64)
    assert _ask(core, prompts[0]) == (alone[0], 0)
    core.close()


def test_with_room_for_a_few_blocks_the_start_of_a_prefix_stays(
    prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path
) -> None:
    core = _core(tmp_path, most_bytes=52 + 3 * (COPY + 48))
    _ask(core, prompts[0])
    core.close()
    core = _core(tmp_path, most_bytes=52 + 3 * (COPY + 48))
    assert _ask(core, prompts[0]) == (alone[0], 3 * BLOCK)
    core.close()


def test_damaged_blocks_are_computed_again(
    prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    core = _core(tmp_path)
    _ask(core, prompts[0])
    core.close()
    blocks = bytearray((tmp_path / "blocks").read_bytes())
    blocks[random.Random(seed).randrange(len(blocks))] ^= 255
    (tmp_path / "blocks").write_bytes(blocks)
    core = _core(tmp_path)
    tokens, found = _ask(core, prompts[0])
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
            core = _core(tmp_path / str(turn))
            for _ in range(2):
                assert [_ask(core, prompt)[0] for prompt in prompts] == alone
            core.close()
        assert len(caplog.records) == 1 and os.strerror(errno.EFBIG) in caplog.text
        core = _core(tmp_path / str(turn))
        assert [_ask(core, prompt)[0] for prompt in prompts] == alone
        core.close()


def test_a_directory_that_disappears_harms_nobody(
    prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path
) -> None:
    core = _core(tmp_path / "it")
    _ask(core, prompts[0])
    shutil.rmtree(tmp_path / "it")
    assert [_ask(core, prompt)[0] for prompt in prompts + prompts] == alone + alone
    core.close()


def test_files_that_shrink_under_a_server_harm_nobody(
    prompts: list[tuple[int, ...]], alone: list[list[int]], tmp_path: Path
) -> None:
    core = _core(tmp_path)
    assert [_ask(core, prompt)[0] for prompt in prompts] == alone
    os.truncate(tmp_path / "blocks", COPY // 2)
    assert [_ask(core, prompt)[0] for prompt in prompts] == alone
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
    _ask(core, prompts[0])
    executor.failing = True
    with pytest.raises(RuntimeError):
        _ask(core, prompts[1])
    core.abort("error")
    core.close()
    core = _core(tmp_path)
    assert _ask(core, prompts[0])[1] == 0
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
        _core(tmp_path, most_bytes=127)
    _core(tmp_path, most_bytes=128).close()
    with pytest.raises(EngineError, match="at least 1"):
        KvOffload(tmp_path, 0)
    with pytest.raises(EngineError, match="kv_offload_dir is not"):
        KvOffload.of(None, 100)
    assert KvOffload.of(None, None) is None
