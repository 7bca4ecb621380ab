"""What the arrays of a step hold does not depend on the steps before, though most of it is kept from them."""

from __future__ import annotations

import ctypes
import random
import struct
from dataclasses import replace
from typing import Any

import pytest

from inflight.engine_format.cpu_abi import SAMPLING_FIELDS, SAMPLING_FORMAT, SAMPLING_POSITION
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.cpu.buffers import StepBuffers
from inflight.runtime.executors.null.executor import NullExecutor, null_manifest
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch, StepOutput

pytestmark = pytest.mark.unit

SIZE = ctypes.sizeof(ctypes.c_int32)


def _ints(address: int, count: int) -> list[int]:
    return list((ctypes.c_int32 * count).from_address(address))


def _sampling_rows(buffers: StepBuffers) -> list[tuple[Any, ...]]:
    """Every record, with the lists behind its pointers in their places."""
    size = struct.calcsize(SAMPLING_FORMAT)
    place_of = {name: place for place, (name, _) in enumerate(SAMPLING_FIELDS)}
    lists = {"history": "history_length", "bias_ids": "num_bias", "bias_values": "num_bias"}
    rows = []
    for row in range(buffers.batch.num_logit_rows):
        fields = list(struct.unpack(SAMPLING_FORMAT, ctypes.string_at(buffers.batch.sampling + row * size, size)))
        for name, length in lists.items():
            place, count = place_of[name], fields[place_of[length]]
            fields[place] = _ints(fields[place], count) if fields[place] else []
        rows.append(tuple(fields))
    return rows


def _contents(buffers: StepBuffers, records: list[ScheduledSequence], tokens_per_block: int) -> dict[str, Any]:
    """All that the engine would read."""
    batch = buffers.batch
    tables = []
    for place, record in enumerate(records):
        blocks = -(-(record.start + len(record.token_ids)) // tokens_per_block)
        tables.append(_ints(batch.block_tables + SIZE * place * batch.block_table_stride, blocks))
    return {
        "counts": (batch.num_sequences, batch.num_tokens, batch.num_logit_rows),
        "token_ids": _ints(batch.token_ids, batch.num_tokens),
        "starts": _ints(batch.sequence_starts, batch.num_sequences + 1),
        "contexts": _ints(batch.context_lengths, batch.num_sequences),
        "tables": tables,
        "logit_rows": _ints(batch.logit_rows, batch.num_logit_rows),
        "sampling": _sampling_rows(buffers),
    }


class _Comparing(NullExecutor):
    """Fills buffers that live as long as the engine, and fresh ones, with every batch."""

    def execute(self, batch: StepBatch) -> StepOutput:
        kept = self.__dict__.setdefault("kept", StepBuffers(self.manifest))
        fresh = StepBuffers(self.manifest)
        size = self.manifest.kv_cache.tokens_per_block
        records = list(batch.sequences)
        kept.fill(batch)
        # Copies, as of a scheduler that keeps no records.
        fresh.fill(StepBatch([replace(record) for record in records]))
        assert _contents(kept, records, size) == _contents(fresh, records, size)
        return super().execute(batch)


def _params(source: random.Random) -> SamplingParams:
    chance = source.random
    return SamplingParams(
        temperature=source.choice((0.0, 0.7)),
        top_p=source.choice((1.0, 0.9)),
        repetition_penalty=source.choice((1.0, 1.0, 1.2)),
        logit_bias={source.randrange(50): 2.0} if chance() < 0.3 else {},
        bad_word_ids=((source.randrange(50), 3),) if chance() < 0.2 else (),
        min_tokens=source.choice((0, 0, 5)),
        stop_token_ids=(7,),
        max_tokens=source.randint(5, 40),
        n=source.choice((1, 1, 2)),
        seed=source.getrandbits(64),
        logprobs=source.choice((None, None, 2)),
        prompt_logprobs=source.choice((None, None, 0)),
    )


def test_arrays_kept_from_step_to_step_hold_what_fresh_ones_would(seed: int) -> None:
    source = random.Random(seed)
    for _ in range(15):
        policy: Any = source.choice(("guaranteed_no_evict", "max_utilization"))
        limits: dict[str, Any] = {"vocab_size": 50, "tokens_per_block": 4, "max_seq_len": 80, "max_num_tokens": 24}
        manifest = null_manifest(max_batch_size=6, max_logit_rows=16, **limits)
        executor = _Comparing(manifest, num_blocks=30)
        core = EngineCore(executor, SchedulerConfig(policy=policy))
        for name in range(12):
            prompt = tuple(source.randrange(50) for _ in range(source.randint(1, 30)))
            core.add_request(Request(str(name), prompt, _params(source)))
            for _ in range(source.randint(0, 6)):
                core.step()
            if source.random() < 0.1:
                core.cancel(str(source.randrange(12)))
        while core.has_unfinished():
            core.step()


def _decode(**changes: Any) -> ScheduledSequence:
    values: dict[str, Any] = {"block_table": [1], "sampling": RowSampling(), "sample_last": True, "prompt_length": 3}
    return ScheduledSequence(**{"slot": 0, "token_ids": [5], "start": 3, **values, **changes})


def test_a_table_that_is_too_short_does_not_end_in_the_blocks_of_an_older_one() -> None:
    buffers = StepBuffers(null_manifest(tokens_per_block=4, max_seq_len=16))
    buffers.fill(StepBatch([_decode(block_table=[1, 2, 3], start=9)]))
    buffers.fill(StepBatch([_decode(block_table=[1], start=9)]))
    assert _ints(buffers.batch.block_tables, 2) == [1, -1]


@pytest.mark.parametrize(
    "record",
    [
        _decode(block_table=[1, 2, 3, 4, 5]),
        _decode(token_ids=[1 << 31]),
        _decode(token_ids=[1] * 200, block_table=[1, 2, 3, 4]),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing_known_behind(record: ScheduledSequence) -> None:
    manifest = null_manifest(tokens_per_block=4, max_seq_len=16)
    buffers, good = StepBuffers(manifest), _decode()
    buffers.fill(StepBatch([good]))
    with pytest.raises((ValueError, IndexError, OverflowError)):
        buffers.fill(StepBatch([replace(record, slot=1), good]))
    buffers.fill(StepBatch([good]))
    fresh = StepBuffers(manifest)
    fresh.fill(StepBatch([good]))
    assert _contents(buffers, [good], 4) == _contents(fresh, [good], 4)


def test_the_position_lies_where_the_fields_say() -> None:
    before = "".join(code for name, code in SAMPLING_FIELDS[: [name for name, _ in SAMPLING_FIELDS].index("position")])
    assert struct.calcsize("@" + before) == SAMPLING_POSITION
