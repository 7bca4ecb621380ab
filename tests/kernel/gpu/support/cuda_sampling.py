"""Rows of sampling parameters as the arrays of the cuda target's sampling chain, and the chain itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.build.gpu_kernels.sampling_chain import report_planes, sampling_chain, sampling_planes
from inflight.build.gpu_kernels.spec import Variant
from inflight.engine_format.cuda_facts import ANEW, LISTS, MASK, MOST_REPORTED, PENALTIES
from inflight.runtime.scheduler.step import RowSampling, TokenResult

Array: TypeAlias = npt.NDArray[Any]
Run: TypeAlias = Callable[[str, Variant, Mapping[str, "Array | int"], Mapping[str, int]], None]


@dataclass(frozen=True)
class Row:
    """What sample_row takes beside the logits."""

    sampling: RowSampling
    position: int
    history: tuple[int, ...] = ()
    prompt_length: int = 0
    banned: tuple[int, ...] = ()
    allowed: bytes | None = None

    @property
    def biases(self) -> dict[int, float]:
        return {**dict(self.sampling.bias), **dict.fromkeys(self.banned, -np.inf)}

    @property
    def past(self) -> tuple[int, ...]:
        return self.history if self.sampling.needs_history else ()


def sample(run: Run, logits: Array, rows: Sequence[Row]) -> list[int]:
    """The tokens of float32 logits [rows, vocab]; checks what the chain promises about its arrays. Of histories a part
    was counted before."""
    vocab = logits.shape[1]
    rng = np.random.default_rng()
    planes = sampling_planes(len(rows), vocab, len(rows) + 2)
    arrays = {name: _plane(rng, plane.shape, plane.dtype, plane.zero) for name, plane in planes.items()}
    slots = rng.permutation(len(rows) + 2)[: len(rows)].astype(np.int32)
    counted = [int(rng.integers(len(row.past) + 1)) for row in rows]
    for slot, row, count in zip(slots, rows, counted, strict=True):
        if count:
            arrays["counts"][slot] = counts_of(row.past[:count], row.prompt_length, vocab)
    before = arrays["counts"].copy()
    arguments = {
        **arrays,
        **_parameters(rows, vocab, counted),
        "slot": slots,
        "logits": logits.copy(),
        "tokens": np.full(len(rows), -1, np.int32),
    }
    filters = {
        "top_k": any(row.sampling.top_k > 0 for row in rows),
        "top_p": any(row.sampling.top_p < 1 for row in rows),
        "filters": any(row.sampling.top_k > 0 or row.sampling.top_p < 1 or row.sampling.min_p > 0 for row in rows),
    }
    draws = any(row.sampling.temperature > 0 for row in rows)
    needs = {"samples": True, "draws": draws}
    bits = {"lists": LISTS, "anew": ANEW, "counts": PENALTIES}
    needs |= {name: bool((arguments["adjusts"] & bit).any()) for name, bit in bits.items()}
    needs |= {name: draws and used for name, used in filters.items()}
    for link in sampling_chain(vocab):
        if needs.get(link.when):
            sizes = {"rows": len(rows), "vocab": vocab}
            run(link.function, link.variant, {**arguments, **link.scalars}, sizes)
    assert np.array_equal(arguments["logits"].view(np.int32), logits.view(np.int32)), "the logits are read only"
    for name, plane in planes.items():
        assert not plane.zero or not arrays[name].any(), f"{name} must be zero between steps"
    tokens: list[int] = arguments["tokens"].tolist()
    for slot, row, token in zip(slots, rows, tokens, strict=True):
        if row.past:
            before[slot] = counts_of((*row.past, token), row.prompt_length, vocab)
    assert np.array_equal(arrays["counts"], before), "a slot has its own sequence's counts"
    return tokens


def report(
    run: Run, logits: Array, tokens: Sequence[int], targets: Sequence[int], wanted: Sequence[int]
) -> list[TokenResult]:
    """What is reported of `targets` (of `tokens` where that is -1); `wanted` alternatives, -1 for no report."""
    rows, vocab = logits.shape
    rng = np.random.default_rng()
    planes = report_planes(rows, vocab)
    arguments = {name: _plane(rng, plane.shape, plane.dtype, plane.zero) for name, plane in planes.items()}
    arguments |= {name: np.array(values, np.int32) for name, values in (("tokens", tokens), ("target", targets))}
    arguments |= {"logits": logits.copy(), "num_logprobs": np.array(wanted, np.int32)}
    arguments |= {"logprobs": np.zeros(rows, np.float32), "ranks": np.zeros(rows, np.int32)}
    arguments["top_ids"] = np.full((rows, MOST_REPORTED), -1, np.int32)
    arguments["top_logprobs"] = np.zeros((rows, MOST_REPORTED), np.float32)
    for link in sampling_chain(vocab):
        if link.when == "reports":
            run(link.function, link.variant, {**arguments, **link.scalars}, {"rows": rows, "vocab": vocab})
    return [_result(arguments, row) for row in range(rows)]


def _result(arrays: Mapping[str, Array], row: int) -> TokenResult:
    target = int(arrays["target"][row])
    token = target if target >= 0 else int(arrays["tokens"][row])
    if arrays["num_logprobs"][row] < 0:
        return TokenResult(token)
    ids, values = arrays["top_ids"][row].tolist(), arrays["top_logprobs"][row].tolist()
    top = tuple((int(one), float(value)) for one, value in zip(ids, values, strict=True) if one >= 0)
    return TokenResult(token, float(arrays["logprobs"][row]), int(arrays["ranks"][row]), top)


def _plane(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, zero: bool) -> Array:
    """Zeros where that is promised, else whatever an earlier step may have left."""
    return np.zeros(shape, dtype) if zero else rng.integers(1, 1 << 30, shape).astype(dtype)


def counts_of(history: Sequence[int], prompt_length: int, vocab: int) -> Array:
    """int32 [vocab]: how often each token was put out, and bit 30 of those in the prompt."""
    counts = np.bincount(np.array(history[prompt_length:], np.int64), minlength=vocab).astype(np.int32)
    counts[list(history[:prompt_length])] |= 1 << 30
    return counts


def _parameters(rows: Sequence[Row], vocab: int, counted: Sequence[int]) -> dict[str, Array]:
    """`counted`: how many tokens of each row's past its slot has."""
    lists = [row.past[count:] for row, count in zip(rows, counted, strict=True)]
    prompts = [max(row.prompt_length - count, 0) for row, count in zip(rows, counted, strict=True)]
    biases = [row.biases for row in rows]
    by_type = {
        np.float32: ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty"),
        np.int32: ("top_k",),
    }
    arrays = {
        name: np.array([getattr(row.sampling, name) for row in rows], dtype)
        for dtype, names in by_type.items()
        for name in names
    }
    return {
        **arrays,
        "seed": np.array([row.sampling.seed for row in rows], np.uint64).view(np.int64),
        "position": np.array([row.position for row in rows], np.int64),
        "history": _flat(lists, np.int32),
        "history_start": _starts(lists),
        "prompt_length": np.array(prompts, np.int32),
        "bias_ids": _flat([tuple(bias) for bias in biases], np.int32),
        "bias_values": _flat([tuple(bias.values()) for bias in biases], np.float32),
        "bias_start": _starts([tuple(bias) for bias in biases]),
        "adjusts": np.array(
            [
                LISTS * bool(bias)
                + MASK * (row.allowed is not None)
                + PENALTIES * bool(row.past)
                + ANEW * (bool(row.past) and count == 0)
                for bias, row, count in zip(biases, rows, counted, strict=True)
            ],
            np.int32,
        ),
        "allowed": np.stack([_mask(row, vocab) for row in rows]),
    }


def _mask(row: Row, vocab: int) -> Array:
    """Of rows without one, any bits."""
    words = -(-vocab // 32)
    given = np.random.default_rng().bytes(4 * words) if row.allowed is None else row.allowed
    return np.frombuffer(given, np.int32)


def _flat(lists: Sequence[Sequence[float]], dtype: type) -> Array:
    """One entry at least: a kernel's argument has an address."""
    return np.array([value for one in lists for value in one] or [0], dtype)


def _starts(lists: Sequence[Sequence[float]]) -> Array:
    return np.array([0, *accumulate(len(one) for one in lists)], np.int32)
