"""The sampling kernel against its NumPy definition, and both against the mathematics."""

from __future__ import annotations

import ctypes
import math
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from inflight.engine_format.cpu_abi import MAX_TOP_LOGPROBS, SAMPLING_FORMAT
from inflight.runtime.sampling.reference import philox_4x32_10, sample_row, score_row
from inflight.runtime.scheduler.step import RowSampling, TokenResult
from tests.kernel.cpu.sampling_kernel import SamplingKernel

pytestmark = pytest.mark.kernel

Logits = npt.NDArray[np.float32]

VOCABULARIES = [1, 2, 257, 1001, 151936]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> SamplingKernel:
    return SamplingKernel(tmp_path_factory.mktemp("sampling"))


def random_logits(rng: np.random.Generator, vocab: int) -> Logits:
    """Rows from flat to spiky, often with equal values, sometimes with values that no model should give."""
    row: npt.NDArray[np.float64] = rng.normal(size=vocab) * rng.choice([0.01, 1.0, 5.0, 100.0])
    kind = rng.integers(5)
    if kind == 1:
        row = np.round(row)
    elif kind == 2:
        row[rng.integers(vocab)] += 30.0
    elif kind == 3:
        row[:] = row[0]
    elif kind == 4:
        strange = rng.random(vocab) < 0.2
        row[strange] = rng.choice([-np.inf, np.nan, 0.0, -0.0, 1e38, -1e38], size=int(strange.sum()))
    return row.astype(np.float32)


def random_sampling(rng: np.random.Generator, vocab: int) -> RowSampling:
    pick = rng.choice
    bias_ids = rng.integers(vocab, size=rng.integers(4))
    return RowSampling(
        temperature=float(pick([0.0, 1e-6, 0.1, 0.7, 1.0, 2.0, 1e4])),
        top_k=int(pick([0, 1, 2, 40, vocab - 1, vocab, vocab + 5])),
        top_p=float(pick([1.0, 1.0, 1e-6, 0.1, 0.5, 0.9, 0.999999])),
        min_p=float(pick([0.0, 0.0, 1e-5, 0.05, 0.5, 1.0])),
        repetition_penalty=float(pick([1.0, 0.5, 1.3])),
        presence_penalty=float(pick([0.0, -1.5, 0.7])),
        frequency_penalty=float(pick([0.0, -0.2, 1.1])),
        seed=int(rng.integers(2**64, dtype=np.uint64)),
        num_logprobs=int(pick([-1, 0, 1, 5, MAX_TOP_LOGPROBS])),
        bias=tuple((int(i), float(pick([-100.0, -1.0, 2.5, 100.0, -np.inf]))) for i in bias_ids),
    )


def random_context(rng: np.random.Generator, vocab: int) -> dict[str, Any]:
    length = int(rng.integers(0, 60))
    return {
        "position": int(rng.integers(2**40)),
        "history": tuple(rng.integers(vocab, size=length).tolist()),
        "prompt_length": int(rng.integers(0, length + 1)),
        "banned": tuple(rng.integers(vocab, size=rng.integers(3)).tolist()),
        "allowed": random_mask(rng, vocab),
        "previous": int(rng.integers(vocab)),
    }


def random_mask(rng: np.random.Generator, vocab: int) -> bytes | None:
    """None, or a bit for each token, in whole words of 32; of those beyond the vocabulary any."""
    if rng.random() < 0.5:
        return None
    share = rng.choice([0.0, 0.03, 0.2, 0.3, 0.5, 0.98])
    bits = rng.random(-(-vocab // 32) * 32) < share
    if rng.random() < 0.5:  # whole words and blocks that are free, or closed
        bits[: int(rng.integers(len(bits)))] = rng.random() < 0.5
    words = np.packbits(bits, bitorder="little").view(np.uint32)
    token = int(rng.integers(vocab))
    words[token // 32] |= np.uint32(1 << token % 32)
    return words.tobytes()


def assert_same(actual: TokenResult, expected: TokenResult) -> None:
    """Tokens and ranks are equal; log probabilities nearly to the last bit, for `log` is the system's own."""
    assert actual.token_id == expected.token_id
    assert actual.rank == expected.rank
    assert [token for token, _ in actual.top] == [token for token, _ in expected.top]
    got, wanted = ([result.logprob, *(value for _, value in result.top)] for result in (actual, expected))
    np.testing.assert_allclose(got, wanted, rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_kernel_and_definition_choose_the_same_token_for_random_parameters(
    kernel: SamplingKernel, rng: np.random.Generator, vocab: int
) -> None:
    for _ in range(400 if vocab < 2000 else 12):
        logits, sampling, context = random_logits(rng, vocab), random_sampling(rng, vocab), random_context(rng, vocab)
        expected = sample_row(logits, sampling, **context)
        assert_same(kernel.sample(logits, sampling, **context), expected)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_each_filter_alone_matches_the_definition(kernel: SamplingKernel, rng: np.random.Generator, vocab: int) -> None:
    filters = [{}, {"top_k": 3}, {"top_k": 50}, {"top_p": 0.9}, {"top_p": 0.3}, {"min_p": 0.1}, {"min_p": 1e-4}]
    for values in filters * (20 if vocab < 2000 else 1):
        logits = (rng.normal(size=vocab) * 3).astype(np.float32)
        sampling = RowSampling(temperature=float(rng.uniform(0.2, 2)), seed=int(rng.integers(2**60)), **values)  # type: ignore[arg-type]
        assert kernel.sample(logits, sampling, 7).token_id == sample_row(logits, sampling, 7).token_id


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_a_given_token_gets_its_log_probability_and_rank(
    kernel: SamplingKernel, rng: np.random.Generator, vocab: int
) -> None:
    for _ in range(10):
        logits, target = random_logits(rng, vocab), int(rng.integers(vocab))
        top = int(rng.integers(0, MAX_TOP_LOGPROBS + 1))
        actual = kernel.sample(logits, RowSampling(num_logprobs=top), 0, target=target)
        assert_same(actual, score_row(logits, target, top))


def test_log_probabilities_are_those_of_a_float64_softmax(kernel: SamplingKernel, rng: np.random.Generator) -> None:
    logits = (rng.normal(size=5003) * 4).astype(np.float32)
    exact = logits.astype(np.float64) - np.logaddexp.reduce(logits.astype(np.float64))
    result = kernel.sample(logits, RowSampling(num_logprobs=MAX_TOP_LOGPROBS), 0)
    order = np.argsort(-logits, kind="stable")[:MAX_TOP_LOGPROBS]
    assert [token for token, _ in result.top] == order.tolist()
    np.testing.assert_allclose([value for _, value in result.top], exact[order], atol=2e-6)
    assert (result.token_id, result.rank) == (order[0], 1)


def test_log_probabilities_ignore_everything_that_changes_the_choice(
    kernel: SamplingKernel, rng: np.random.Generator
) -> None:
    logits = rng.normal(size=1001).astype(np.float32)
    plain = kernel.sample(logits, RowSampling(num_logprobs=5), 0, target=13)
    forced = RowSampling(temperature=0.3, bias=((13, 1000.0),), repetition_penalty=1.5, top_k=2, num_logprobs=5)
    assert kernel.sample(logits, forced, 0, history=(13, 14), prompt_length=1) == plain


@pytest.mark.parametrize("values", [{}, {"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.1}, {"temperature": 0.5}])
def test_draws_follow_the_distribution(
    kernel: SamplingKernel, rng: np.random.Generator, values: dict[str, Any]
) -> None:
    vocab, draws = 19, 20_000
    logits = rng.normal(size=vocab).astype(np.float32)
    sampling = replace(RowSampling(temperature=1.0, seed=int(rng.integers(2**63))), **values)
    probabilities = np.exp(logits.astype(np.float64) / sampling.temperature)
    order = np.argsort(-probabilities)
    probabilities /= probabilities.sum()
    if sampling.top_k:
        probabilities[order[sampling.top_k :]] = 0
    before = np.cumsum(probabilities[order]) - probabilities[order]
    probabilities[order[before >= sampling.top_p * probabilities.sum()]] = 0
    probabilities[probabilities < sampling.min_p * probabilities.max()] = 0
    probabilities /= probabilities.sum()
    counts = np.bincount([kernel.sample(logits, sampling, i).token_id for i in range(draws)], minlength=vocab)
    possible = probabilities > 0
    assert not counts[~possible].any()
    expected = probabilities[possible] * draws
    chi_square = float((((counts[possible] - expected) ** 2) / expected).sum())
    freedom = int(possible.sum()) - 1
    assert chi_square < freedom + 6 * math.sqrt(2 * freedom) + 12


def test_the_draw_depends_on_seed_and_position_alone(kernel: SamplingKernel, rng: np.random.Generator) -> None:
    logits = rng.normal(size=1001).astype(np.float32)
    sampling = RowSampling(temperature=1.0, seed=int(rng.integers(2**63)))
    tokens = [kernel.sample(logits, sampling, position).token_id for position in range(50)]
    assert [kernel.sample(logits, sampling, position).token_id for position in range(50)] == tokens
    assert len(set(tokens)) > 10
    other = replace(sampling, seed=sampling.seed ^ 1 << 40)
    assert [kernel.sample(logits, other, position).token_id for position in range(50)] != tokens


def test_a_row_of_nothing_but_nan_or_bans_gives_the_lowest_token(kernel: SamplingKernel) -> None:
    for value in (np.nan, -np.inf):
        for temperature in (0.0, 1.0):
            logits = np.full(257, value, np.float32)
            result = kernel.sample(logits, RowSampling(temperature=temperature, num_logprobs=3), 0)
            assert (result.token_id, result.logprob) == (0, -math.inf)


def test_bans_and_penalties_apply_to_greedy_choices(kernel: SamplingKernel) -> None:
    logits = np.array([1.0, 3.0, 2.9, 2.8], np.float32)
    assert kernel.sample(logits, RowSampling(), 0).token_id == 1
    assert kernel.sample(logits, RowSampling(), 0, banned=(1,)).token_id == 2
    assert kernel.sample(logits, RowSampling(bias=((0, 5.0),)), 0).token_id == 0
    assert kernel.sample(logits, RowSampling(repetition_penalty=2.0), 0, history=(1, 2), prompt_length=2).token_id == 3
    presence = RowSampling(presence_penalty=1.0)
    assert kernel.sample(logits, presence, 0, history=(1, 2), prompt_length=1).token_id == 1
    assert kernel.sample(logits, presence, 0, history=(2, 1), prompt_length=1).token_id == 2


def test_ties_go_to_the_lowest_id(kernel: SamplingKernel) -> None:
    logits = np.zeros(1001, np.float32)
    assert kernel.sample(logits, RowSampling(), 0).token_id == 0
    ranked = kernel.sample(logits, RowSampling(num_logprobs=4), 0, target=9)
    assert (ranked.rank, [token for token, _ in ranked.top]) == (10, [0, 1, 2, 3])
    draws = {kernel.sample(logits, RowSampling(temperature=1.0, top_k=3), i).token_id for i in range(100)}
    assert draws == {0, 1, 2}


def test_the_result_does_not_depend_on_the_instruction_set(
    kernel: SamplingKernel, tmp_path: Any, rng: np.random.Generator
) -> None:
    baseline = SamplingKernel(tmp_path, cpu="baseline")
    for vocab in (257, 1001):
        for _ in range(100):
            logits, sampling, context = (
                random_logits(rng, vocab),
                random_sampling(rng, vocab),
                random_context(rng, vocab),
            )
            expected = kernel.sample(logits, sampling, **context)
            assert repr(baseline.sample(logits, sampling, **context)) == repr(expected)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(
    kernel: SamplingKernel, counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    assert philox_4x32_10(counter, key) == words
    state = (ctypes.c_uint32 * 4)(*counter)
    kernel.library.philox(state, ctypes.c_uint32(key[0]), ctypes.c_uint32(key[1]))
    assert tuple(state) == words


def test_the_record_has_the_size_that_the_loader_assumes(kernel: SamplingKernel) -> None:
    assert kernel.library.sampling_bytes() == struct.calcsize(SAMPLING_FORMAT)
