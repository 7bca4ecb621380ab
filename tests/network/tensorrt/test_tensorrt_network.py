"""The live TensorRT network, interpreted in NumPy, against transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import torch

from inflight.build.targets.tensorrt.lowering.cache_layout import BlockLayout
from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.executors.null.executor import null_manifest
from inflight.runtime.executors.tensorrt.blocks import BlockRuns
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch
from tests.models.float8 import round_to_float8
from tests.models.random_models import random_shape
from tests.models.schemes import quantizing
from tests.models.stored_forms import SCALED_INPUTS, SIGNED_SCALES, store_as
from tests.network.support import FAMILIES, Case, make_case, random_chunks, relative_error
from tests.network.tensorrt.support import Floats, InterpretedNetwork
from tests.oracles.quantized_transformers import quantize_oracle

pytestmark = pytest.mark.network
STORED_FORMS = [form for form in (*SCALED_INPUTS, *SIGNED_SCALES) if form.block.get("group_size") != 128]

SLOTS, MAX_SEQ_LEN = 5, 96
GREEDY = RowSampling()
HALVES = [("float16", ir.DataType.FLOAT16, 2e-2), ("bfloat16", ir.DataType.BFLOAT16, 1e-1)]


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_steps_over_carried_caches_give_the_logits_of_transformers(
    family: str, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    case = make_case(tmp_path, random_shape(rng, family), seed)
    interpreted = InterpretedNetwork(case.checkpoint, MAX_SEQ_LEN, SLOTS)
    assert max(_slot_steps(case, interpreted, rng, rng.integers(2, MAX_SEQ_LEN, 4).tolist())) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_steps_over_a_pool_of_blocks_give_the_logits_of_transformers(
    family: str, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    """A context of several hundred tokens has more than one split."""
    case = make_case(tmp_path, random_shape(rng, family), seed)
    lengths = [int(rng.integers(280, 400)), *rng.integers(2, 90, 3).tolist()]
    assert max(_block_steps(case, rng, 400, [lengths])) < 1e-4


def _block_steps(case: Case, rng: np.random.Generator, max_seq_len: int, rounds: list[list[int]]) -> list[float]:
    """_mixed_steps of prompts of some lengths, round by round, over tables of scattered blocks."""
    size, count = int(rng.choice([16, 32, 48])), len(rounds[0])
    width = -(-max_seq_len // size)
    pool = rng.permutation(count * width).reshape(count, width)
    interpreted = InterpretedNetwork(case.checkpoint, max_seq_len, count * width, layout=BlockLayout(size))
    runs = BlockRuns(paged_manifest(max_seq_len, size), count * width, prompt_tile=int(rng.integers(1, size + 9)))

    def step(batch: StepBatch) -> dict[int, Floats]:
        (run,) = runs(batch)
        return interpreted.split(batch, run)

    def table(place: int, end: int) -> tuple[int, ...]:
        return tuple(pool[place, : -(-end // size)].tolist())

    return [error for lengths in rounds for error in _mixed_steps(case, step, table, rng, lengths)]


def paged_manifest(max_seq_len: int, tokens_per_block: int) -> EngineManifest:
    manifest = null_manifest()
    cache = msgspec.structs.replace(manifest.kv_cache, tokens_per_block=tokens_per_block)
    limits = msgspec.structs.replace(manifest.limits, max_seq_len=max_seq_len)
    return msgspec.structs.replace(manifest, kv_cache=cache, limits=limits)


def _slot_steps(
    case: Case, interpreted: InterpretedNetwork, rng: np.random.Generator, lengths: list[int]
) -> list[float]:
    """_mixed_steps in random slots."""
    slots = rng.permutation(SLOTS).tolist()
    return _mixed_steps(case, interpreted.step, lambda place, end: (slots[place],), rng, lengths)


def _mixed_steps(
    case: Case,
    step: Callable[[StepBatch], dict[int, Floats]],
    table: Callable[[int, int], tuple[int, ...]],
    rng: np.random.Generator,
    lengths: list[int],
) -> list[float]:
    """The largest error of each of some random prompts, which are fed together, in random chunks.

    `table` gives the blocks of a prompt by its number and the tokens that they must hold.
    """
    count = len(lengths)
    prompts = [rng.integers(case.checkpoint.config.vocab_size, size=length) for length in lengths]
    expected = [case.expected(prompt.tolist()) for prompt in prompts]
    pending = [random_chunks(rng, prompt) for prompt in prompts]
    done, errors = [0] * count, [0.0] * count
    while any(pending):
        # Some sequences sit a step out, and their blocks must keep what they hold.
        waiting = [index for index in rng.permutation(count).tolist() if pending[index]]
        chosen = waiting[: int(rng.integers(1, len(waiting) + 1))]
        scheduled = []
        for index in chosen:
            chunk = pending[index].pop(0).tolist()
            blocks = table(index, done[index] + len(chunk))
            scheduled.append(_scheduled(index, blocks, chunk, done[index], every_row=rng.random() < 0.5))
            done[index] += len(chunk)
        logits = step(StepBatch(scheduled))
        for position, index in enumerate(chosen):
            rows = scheduled[position].num_logit_rows
            error = relative_error(logits[position], expected[index][done[index] - rows : done[index]])
            errors[index] = max(errors[index], error)
    return errors


def _scheduled(slot: int, blocks: tuple[int, ...], tokens: list[int], start: int, every_row: bool) -> ScheduledSequence:
    targets = tokens[1:] if every_row else ()
    return ScheduledSequence(slot, tokens, start, blocks, GREEDY, sample_last=True, prompt_targets=targets)


@pytest.mark.parametrize(("dtype", "compute", "bound"), HALVES)
def test_half_precision_networks_stay_near_the_float32_model(
    dtype: str, compute: ir.DataType, bound: float, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    case = make_case(tmp_path, random_shape(rng, "qwen3"), seed, getattr(torch, dtype))
    interpreted = InterpretedNetwork(case.checkpoint, MAX_SEQ_LEN, 1, compute)
    tokens = rng.integers(case.checkpoint.config.vocab_size, size=40).tolist()
    logits = interpreted.step(StepBatch([_scheduled(0, (0,), tokens, 0, every_row=True)]))[0]
    assert relative_error(logits, case.expected(tokens)) < bound


@pytest.mark.parametrize("layout", ["slots", "blocks"])
@pytest.mark.parametrize("scheme", ["int8_wo", "int8_w8a8", "int4_wo", "int4_w4a8", "fp8", *map(str, STORED_FORMS)])
def test_quantized_networks_give_the_logits_of_transformers_with_the_same_numbers(
    scheme: str, layout: str, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    # Groups divide the rows, as TensorRT's blocks must.
    shape = replace(random_shape(rng, str(rng.choice(FAMILIES))), head_size=32, hidden_size=192, intermediate_size=96)
    shape = replace(shape, num_kv_heads=2, queries_per_kv=3, tied=False)
    forms = {str(form): form for form in STORED_FORMS}
    if scheme == "fp8" or scheme in forms:
        plain = make_case(tmp_path, shape, seed)
        directory = plain.checkpoint.directory
        rounded = round_to_float8(directory, rng) if scheme == "fp8" else store_as(directory, forms[scheme], rng)
        case = replace(plain, checkpoint=rounded)
    else:
        case = make_case(tmp_path, shape, seed, **quantizing(scheme, 32))
    quantize_oracle(case)
    rounds_rows = scheme == "fp8" or "a8" in scheme or "smoothquant" in scheme
    rounds = [[8] * 4 if rounds_rows else [40] * 4] * 2
    if layout == "blocks":
        errors = _block_steps(case, rng, MAX_SEQ_LEN, rounds)
    else:
        interpreted = InterpretedNetwork(case.checkpoint, MAX_SEQ_LEN, SLOTS)
        errors = [error for lengths in rounds for error in _slot_steps(case, interpreted, rng, lengths)]
    if rounds_rows:
        # A value on the edge between two 8-bit levels may fall to either side, and its prompt then differs a little.
        assert np.median(errors) < 1e-4 and max(errors) < 5e-2
    else:
        assert max(errors) < 1e-4
