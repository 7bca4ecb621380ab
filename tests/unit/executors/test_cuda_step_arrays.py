"""The integers of a cuda engine's step, and what its rows sample with, as the kernels read them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inflight.engine_format.cuda_facts import ANEW, LISTS, MASK, PENALTIES
from inflight.runtime.executors.cuda.sampling_rows import SamplingRows, sampling_layout
from inflight.runtime.executors.cuda.slot_counts import SlotCounts
from inflight.runtime.executors.cuda.step_arrays import StepArrays, padded_rows, step_layout
from inflight.runtime.executors.null.executor import null_manifest
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch

pytestmark = pytest.mark.unit

MANIFEST = null_manifest(vocab_size=70, tokens_per_block=4, max_batch_size=20, max_seq_len=24, max_num_tokens=40)
SPARE_BLOCK, SPLIT = 99, 5


def decodes(rng: np.random.Generator, count: int) -> list[ScheduledSequence]:
    """A generated token of each, behind a prompt of two."""
    return [
        ScheduledSequence(
            *(slot, [int(rng.integers(70))], int(rng.integers(2, 24)), rng.permutation(50)[:6].tolist(), RowSampling()),
            sample_last=True,
            prompt_length=2,
        )
        for slot in range(count)
    ]


def test_rows_that_nobody_asked_for_are_of_a_block_that_is_nobodys(rng: np.random.Generator) -> None:
    layout = step_layout(MANIFEST)
    memory = np.full(layout.nbytes, 0xEE, np.uint8)
    arrays = StepArrays(layout, memory, MANIFEST.limits, 8, SPLIT, SPARE_BLOCK)
    sequences = decodes(rng, 9)
    sequences[4].follows = 7
    counts = arrays.fill(StepBatch(sequences), list(range(30, 39)))
    assert (counts.tokens, counts.generated, counts.logit_rows, counts.wanted, counts.repeats) == (12, 12, 12, 9, True)
    step = layout.views(memory)
    items = [step["positions"][row] // SPLIT + 1 for row in range(12)]
    assert counts.items_before.tolist() == np.cumsum([0, *items]).tolist()
    assert step["first_items"][:12].tolist() == counts.items_before[:-1].tolist()
    for row in range(12):
        asked = sequences[row] if row < 9 else None
        table = step["block_tables"][step["sequence_of_row"][row]]
        assert step["logit_rows"][row] == row
        assert step["token_ids"][row] == (asked.token_ids[0] if asked else 0)
        assert step["positions"][row] == (asked.start if asked else 0)
        assert step["follows"][row] == (37 if row == 4 else -1)
        assert table[:6].tolist() == asked.block_table if asked else table[0] == SPARE_BLOCK
    whole = memory.copy()
    memory[: len(arrays.filled)] = 0
    assert np.array_equal(memory[len(arrays.filled) :], whole[len(arrays.filled) :]), "it is a view of the beginning"
    assert (whole[len(arrays.filled) :] == 0xEE).all(), "nothing behind it is written"


def test_rows_are_rounded_up_by_less_than_half() -> None:
    for count in range(1, 600):
        rows = padded_rows(count, 512 if count <= 512 else count)
        assert count <= rows < 1.5 * count
    assert len({padded_rows(count, 512) for count in range(1, 513)}) <= 20


def never(place: int) -> int:
    raise AssertionError("a token that was counted is not asked for")


def test_what_the_kernels_do_not_know_is_left_to_the_host(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inflight.runtime.executors.cuda.sampling_rows._MOST_HISTORY", 10)
    layout = sampling_layout(MANIFEST)
    rows = SamplingRows(layout, np.zeros(layout.nbytes, np.uint8), 70, SlotCounts())
    plain = decodes(rng, 2)
    assert rows.fill(plain, never) == {"always", "samples"}
    drawing = RowSampling(temperature=1.0)
    for asked, on_host in (
        (replace(drawing, typical_p=0.5), True),
        (replace(drawing, top_n_sigma=1.0), True),
        (RowSampling(typical_p=0.5), False),  # a greedy row needs no filter
        (RowSampling(watermark_delta=1.0), True),
        (replace(drawing, num_logprobs=64), False),
        (replace(drawing, num_logprobs=65), True),
        (RowSampling(bias=tuple((token, 1.0) for token in range(70))), False),
    ):
        plain[1].sampling = asked
        assert (rows.fill(plain, never) is None) == on_host, asked
    history = [1] * 10
    with_history(plain[1], history)
    assert rows.fill(plain, never) == {"always", "samples", "anew", "counts"}
    for _ in range(3):
        history.append(2)
        with_history(plain[1], history)
        assert rows.fill(plain, never) == {"always", "samples"}, "what is counted takes no room"
    with_history(plain[1], history.copy())
    assert rows.fill(plain, never) is None, "there is no room for such a history"


def with_history(record: ScheduledSequence, history: list[int]) -> None:
    """The record of its last token, with penalties."""
    record.sampling = RowSampling(presence_penalty=1.0)
    record.history, record.token_ids, record.start = history, history[-1:], len(history) - 1


def test_lists_of_rows_lie_one_behind_the_other(rng: np.random.Generator) -> None:
    layout = sampling_layout(MANIFEST)
    memory = np.full(layout.nbytes, 0xEE, np.uint8)
    rows = SamplingRows(layout, memory, 70, SlotCounts())
    first, second, third = decodes(rng, 3)
    first.sampling, first.banned = RowSampling(bias=((3, 1.5), (4, 2.0))), (4, 9)
    with_history(third, [7, 8, 7])
    third.sampling = RowSampling(frequency_penalty=0.5, seed=(1 << 64) - 2)
    third.allowed = rng.bytes(12)
    assert rows.fill([first, second, third], never) == {"always", "samples", "anew", "counts", "lists"}
    found = layout.views(memory)
    assert found["bias_start"][:4].tolist() == [0, 3, 3, 3] and found["history_start"][:4].tolist() == [0, 0, 0, 3]
    biases = dict(zip(found["bias_ids"][:3].tolist(), found["bias_values"][:3].tolist(), strict=True))
    assert biases == {3: 1.5, 4: -np.inf, 9: -np.inf}, "a ban is stronger than a bias"
    assert found["history"][:3].tolist() == [7, 8, 7] and found["slot"][:3].tolist() == [0, 1, 2]
    assert found["adjusts"][:3].tolist() == [LISTS, 0, MASK | PENALTIES | ANEW] and found["prompt_length"][2] == 2
    assert found["allowed"][2].tobytes() == third.allowed and found["seed"][2] == -2
    assert found["position"][:3].tolist() == [each.start + 1 for each in (first, second, third)]
    copied = np.full(layout.nbytes, 0xAA, np.uint8)
    for at, array in rows.sections():
        copied[at : at + array.nbytes] = array.reshape(-1).view(np.uint8)
    there = layout.views(copied)
    for name, count in (("adjusts", 3), ("history", 3), ("bias_ids", 3), ("bias_values", 3), ("history_start", 4)):
        assert np.array_equal(there[name][:count], found[name][:count]), name
    assert there["allowed"][2].tobytes() == third.allowed
