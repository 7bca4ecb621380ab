"""The tensorrt executor's side of a step, without a GPU: runs, their inputs, the choice of a plan, the weights file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from msgspec.structs import replace

from inflight.build.registry import make_recipe
from inflight.engine_format.manifest import EngineManifest
from inflight.engine_format.tensorrt_facts import DevicePlan, TensorRtFacts
from inflight.errors import EngineError
from inflight.files.tensor_file import encode_header
from inflight.runtime.executors.null.executor import null_manifest
from inflight.runtime.executors.tensorrt.api import checked, find_module
from inflight.runtime.executors.tensorrt.blocks import BlockRuns
from inflight.runtime.executors.tensorrt.device import require_gpu
from inflight.runtime.executors.tensorrt.executor import TensorRtExecutor
from inflight.runtime.executors.tensorrt.layouts import run_planner
from inflight.runtime.executors.tensorrt.plan import choose_plan, map_weights
from inflight.runtime.executors.tensorrt.slots import slot_run, split_step
from inflight.runtime.loading.load import load_engine
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch
from tests.engines.engine_files import write_engine

pytestmark = pytest.mark.unit

SLOTS, MAX_ROWS = 24, 64


def random_batch(rng: np.random.Generator) -> StepBatch:
    """Sequences in scattered slots; about half of them have one token."""
    sequences = []
    for place, slot in enumerate(rng.permutation(SLOTS)[: rng.integers(1, 13)].tolist()):
        tokens = rng.integers(99, size=1 if rng.random() < 0.5 else rng.integers(2, 30)).tolist()
        targets = tokens[: rng.integers(0, len(tokens) + 1)]
        sequences.append(
            ScheduledSequence(
                place,
                tokens,
                int(rng.integers(50)),
                (slot,),
                RowSampling(),
                sample_last=bool(rng.random() < 0.7),
                prompt_targets=targets,
                prompt_num_logprobs=0,
            )
        )
    return StepBatch(sequences)


def test_every_sequence_runs_once_single_tokens_together_and_padding_has_a_limit(rng: np.random.Generator) -> None:
    for _ in range(50):
        batch = random_batch(rng)
        runs = split_step(batch, MAX_ROWS)
        assert sorted(index for run in runs for index in run) == list(range(len(batch.sequences)))
        single = {index for index, sequence in enumerate(batch.sequences) if len(sequence.token_ids) == 1}
        assert not single or set(runs[0]) == single
        for run in runs[bool(single) :]:
            assert len(run) == 1 or slot_run(batch, run).arrays["padded_rows"].size <= MAX_ROWS


def test_the_inputs_of_a_run_say_where_every_token_and_every_logit_row_lies(rng: np.random.Generator) -> None:
    for _ in range(50):
        batch = random_batch(rng)
        run = slot_run(batch, range(len(batch.sequences)))
        arrays = run.arrays
        assert all(array.dtype == np.int32 for array in arrays.values())
        slots = [batch.sequences[index].block_table[0] for index in run.order]
        assert slots == sorted(slots) and run.first_block == slots[0] and run.num_blocks == slots[-1] - slots[0] + 1
        flat = arrays["padded_rows"].ravel()
        # Gathered into padded rows and scattered back, every token is itself.
        assert flat[arrays["packed_rows"]].tolist() == list(range(len(arrays["token_ids"])))
        row = 0
        wanted: list[int] = []
        for index in run.order:
            sequence = batch.sequences[index]
            slot, count = sequence.block_table[0] - run.first_block, len(sequence.token_ids)
            assert arrays["query_starts"][slot : slot + 2].tolist() == [row, row + count]
            assert arrays["token_ids"][row : row + count].tolist() == list(sequence.token_ids)
            assert arrays["positions"][row : row + count].tolist() == list(
                range(sequence.start, sequence.start + count)
            )
            assert arrays["write_index"][slot] == sequence.start
            assert arrays["kv_lengths"][slot] == sequence.start + count
            wanted += range(row, row + len(sequence.prompt_targets))
            wanted += [row + count - 1] if sequence.sample_last else []
            row += count
        assert arrays["logit_rows"].tolist() == (wanted or [0]) and run.num_logit_rows == len(wanted)
        idle = sorted(set(range(run.num_blocks)) - {slot - run.first_block for slot in slots})
        assert np.all(np.diff(arrays["query_starts"])[idle] == 0) and np.all(arrays["kv_lengths"][idle] == 1)


def paged_planner(tokens_per_block: int, prompt_tile: int) -> BlockRuns:
    manifest = null_manifest()
    cache = replace(manifest.kv_cache, tokens_per_block=tokens_per_block)
    limits = replace(manifest.limits, max_seq_len=128, max_num_tokens=400, max_batch_size=12)
    return BlockRuns(replace(manifest, kv_cache=cache, limits=limits), 12 * 8, prompt_tile)


def paged_batch(rng: np.random.Generator, tokens_per_block: int) -> StepBatch:
    """The sequences of a random batch, each with scattered blocks for all of its tokens."""
    sequences = random_batch(rng).sequences
    pool = rng.permutation(12 * 8).reshape(12, 8)
    for sequence, blocks in zip(sequences, pool, strict=False):
        end = sequence.start + len(sequence.token_ids)
        sequence.block_table = blocks[: -(-end // tokens_per_block)].tolist()
    return StepBatch(sequences)


def test_a_paged_run_writes_every_row_where_its_position_lies(rng: np.random.Generator) -> None:
    for _ in range(50):
        batch = paged_batch(rng, 16)
        (run,) = paged_planner(16, 9)(batch)
        arrays = run.arrays
        assert all(array.dtype == np.int32 for array in arrays.values())
        written = []
        for block, (first, behind) in enumerate(pairwise(arrays["query_starts"].tolist())):
            for row in range(first, behind):
                written.append((block, int(arrays["write_index"][block]) + row - first))
        assert len(written) == len(arrays["token_ids"]) == batch.num_tokens
        for row, (block, place) in enumerate(written):
            sequence = batch.sequences[arrays["sequence_of_row"][row]]
            position = int(arrays["positions"][row])
            assert arrays["token_ids"][row] == sequence.token_ids[position - sequence.start]
            assert sequence.block_table[position // 16] == block and position % 16 == place
            assert arrays["block_tables"][arrays["sequence_of_row"][row]][position // 16] == block
        rows = zip(arrays["sequence_of_row"].tolist(), arrays["positions"].tolist(), strict=True)
        assert sorted(rows) == [
            (index, sequence.start + offset)
            for index, sequence in enumerate(batch.sequences)
            for offset in range(len(sequence.token_ids))
        ]


def test_every_row_of_a_paged_run_has_one_attention(rng: np.random.Generator) -> None:
    for tile in (1, 9, 40):
        planner = paged_planner(16, tile)
        batch = paged_batch(rng, 16)
        (run,) = planner(batch)
        arrays = run.arrays
        single = [len(batch.sequences[index].token_ids) == 1 for index in arrays["sequence_of_row"]]
        tiles = list(zip(arrays["tile_begins"].tolist(), arrays["tile_ends"].tolist(), strict=True))
        covered = [row for begin, end in tiles for row in range(begin, end)]
        assert covered == [row for row, alone in enumerate(single) if not alone]
        assert all(end - begin <= min(tile, 16) for begin, end in tiles)
        assert all(np.all(np.diff(arrays["positions"][begin:end]) == 1) for begin, end in tiles)
        decodes = len(arrays["decode_rows"])
        for row, (alone, place) in enumerate(zip(single, arrays["attention_rows"].tolist(), strict=True)):
            assert (arrays["decode_rows"][place] if alone else place - decodes) == row
            if alone:
                assert arrays["decode_positions"][place] == arrays["positions"][row]
                assert arrays["decode_sequences"][place] == arrays["sequence_of_row"][row]
        assert run.decodes == all(single) and (any(single) or arrays["decode_positions"].tolist() == [-1])
        assert set(arrays) == set(planner.sizes)
        assert all(array.size <= planner.sizes[name] for name, array in arrays.items() if name != "logit_rows")


def test_the_logit_rows_of_a_paged_run_are_those_that_were_asked_for(rng: np.random.Generator) -> None:
    for _ in range(20):
        batch = paged_batch(rng, 16)
        (run,) = paged_planner(16, 9)(batch)
        rows = run.arrays["logit_rows"][: run.num_logit_rows].tolist()
        found = [(int(run.arrays["sequence_of_row"][row]), int(run.arrays["positions"][row])) for row in rows]
        wanted = []
        for index, sequence in enumerate(batch.sequences):
            wanted += [(index, sequence.start + row) for row in range(len(sequence.prompt_targets))]
            wanted += [(index, sequence.start + len(sequence.token_ids) - 1)] if sequence.sample_last else []
        assert found == wanted and len(run.arrays["logit_rows"]) == max(1, len(wanted))


def test_a_layout_that_is_not_known_is_refused() -> None:
    with pytest.raises(EngineError, match="which this version does not know"):
        run_planner(tensorrt_manifest(), 4, plans_for(("86",))[0], Path("ENGINE"))


def plans_for(*plans: tuple[str, ...]) -> list[DevicePlan]:
    return [
        DevicePlan(rank=0, file=f"{number}.engine", compute_capabilities=sms, weights="inputs")
        for number, sms in enumerate(plans)
    ]


def tensorrt_manifest() -> EngineManifest:
    return replace(null_manifest(), target="tensorrt", recipe=make_recipe("tensorrt", sm=("86", "89")).record())


def test_the_plan_of_this_gpu_is_chosen_and_its_absence_named() -> None:
    manifest, plans = tensorrt_manifest(), plans_for(("86",), ("89", "120"))
    assert choose_plan(plans, manifest, "120", Path("ENGINE")).file == "1.engine"
    assert choose_plan(plans_for(()), manifest, "90", Path("ENGINE")).file == "0.engine"
    with pytest.raises(EngineError, match="plans for SM86, SM89, SM120, and this machine's GPU is SM75") as caught:
        choose_plan(plans, manifest, "75", Path("ENGINE"))
    assert "--target tensorrt" in (caught.value.hint or "") and "--sm 75" in (caught.value.hint or "")


def test_the_weights_file_is_read_to_the_byte(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays = {
        "a": rng.standard_normal((3, 5)).astype(np.float32),
        "b": rng.standard_normal(7).astype(ml_dtypes.bfloat16),
        "c": rng.integers(-128, 128, (3, 3)).astype(np.int8),
    }
    header = encode_header({name: (array.dtype.name, array.shape) for name, array in arrays.items()})
    (tmp_path / "w").write_bytes(header + b"".join(array.tobytes() for array in arrays.values()))
    found = map_weights(tmp_path / "w")
    assert {name: data.tobytes() for name, data in found.items()} == {n: a.tobytes() for n, a in arrays.items()}
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:-1])
    with pytest.raises(EngineError, match="w is truncated"):
        map_weights(tmp_path / "w")


def test_a_failed_call_is_an_error_and_zero_is_a_result() -> None:
    assert checked(0, "count") == 0
    for failed in (None, False):
        with pytest.raises(EngineError, match="failed to refit the engine"):
            checked(failed, "refit the engine")


def test_a_module_that_is_missing_is_named_with_its_extra() -> None:
    with pytest.raises(EngineError, match="needs tensorrt_of_mars") as caught:
        find_module("tensorrt_of_mars")
    assert "inflight-llm[tensorrt-of-mars]" in (caught.value.hint or "")


def test_an_engine_of_another_interface_is_refused_with_the_command_that_rebuilds_it() -> None:
    manifest = replace(tensorrt_manifest(), target_abi=TensorRtFacts.interface + 1)
    with pytest.raises(EngineError, match=f"interface {TensorRtFacts.interface + 1}") as caught:
        TensorRtExecutor(Path("ENGINE"), manifest, 1)
    assert "--target tensorrt" in (caught.value.hint or "")


def test_a_machine_without_a_gpu_is_told_so_before_anything_is_opened(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))
    try:
        require_gpu()
    except EngineError:
        pass
    else:
        pytest.skip("this machine has a GPU")
    write_engine(tmp_path / "engine", rng, target="tensorrt", tools={"tensorrt_rtx": "1.7.1"})
    with pytest.raises(EngineError) as caught:
        load_engine(tmp_path / "engine")
    assert "NVIDIA GPU" in caught.value.message or "cuda-python" in caught.value.message
    assert caught.value.hint
