"""From times to figures: a serving run's metrics, phases of an offline one, and the bound that they are held to."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from msgspec.structs import replace

from inflight.benchmark.machine_limits import MADE_OF, WIDER, MachineLimits
from inflight.benchmark.offline.latency import Workload, summarize_latency
from inflight.benchmark.offline.phases import split_phases
from inflight.benchmark.offline.session import run_latency, run_throughput
from inflight.benchmark.offline.steps import Step, StepTimer
from inflight.benchmark.offline.throughput import summarize_throughput
from inflight.benchmark.roofline import Roofline
from inflight.benchmark.serve.metrics import summarize
from inflight.benchmark.serve.options import ServeBenchOptions
from inflight.benchmark.serve.requests import Outcome
from inflight.benchmark.serve.run import Run
from inflight.cli.bench.result_file import write_result
from inflight.convert.quantization.schemes import RowDtype
from inflight.errors import EngineError
from inflight.runtime.executors.null.executor import null_manifest
from inflight.runtime.loading.load import KvCacheBudget
from tests.engines.null_engine import write_null_engine

pytestmark = pytest.mark.unit

LIMITS = MachineLimits(2, 5e10, {"float32": 1e11, "bfloat16": 4e11})


def random_outcome(rng: np.random.Generator) -> Outcome:
    """One piece of output for each token, at random times."""
    outcome = Outcome(prompt_len=int(rng.integers(1, 99)), start=float(rng.uniform(0, 9)))
    outcome.output_tokens = int(rng.integers(1, 30))
    now = outcome.start
    for _ in range(outcome.output_tokens):
        now += float(rng.uniform(0.001, 0.1))
        outcome.piece(now)
    return outcome


def random_steps(rng: np.random.Generator) -> list[Step]:
    return [
        Step(float(seconds), float(seconds) / 2, 3, int(tokens), int(rng.integers(1, 4)), 50, bool(decodes))
        for seconds, tokens, decodes in zip(rng.uniform(0.01, 1, 12), rng.integers(3, 90, 12), [0, 1] * 6, strict=True)
    ]


@pytest.fixture
def timer(tmp_path: Path) -> StepTimer:
    engine = write_null_engine(tmp_path / "engine", max_batch_size=4, max_seq_len=128, max_num_tokens=64)
    return StepTimer.open(engine, None, KvCacheBudget(tokens=4096))


def test_the_figures_of_a_serving_run_are_those_of_its_requests(rng: np.random.Generator) -> None:
    done = [random_outcome(rng) for _ in range(20)]
    failed = Outcome(prompt_len=1000, start=0.0, error="HTTP 500")
    options = ServeBenchOptions(base_url="", metric_percentiles=(50.0, 99.9), goodput={"e2el": 800.0, "itl": 60.0})
    figures = summarize(Run([*done, failed], 4.0, 1.0, 2, 7), options)
    assert (figures["completed"], figures["failed"]) == (20, 1)
    tokens = sum(each.output_tokens for each in done)
    prompts = sum(each.prompt_len for each in done)
    assert figures["output_throughput"] == tokens / 4 and figures["total_token_throughput"] == (tokens + prompts) / 4
    assert figures["output_throughput_client_free"] == tokens / 3.5
    assert figures["mean_ttft_ms"] == pytest.approx(1e3 * statistics.mean(each.ttft for each in done))
    long = [each for each in done if each.output_tokens > 1]
    gaps = [gap for each in done for gap in each.itl]
    assert figures["median_itl_ms"] == pytest.approx(1e3 * statistics.median(gaps))
    paces = [sum(each.itl) / (each.output_tokens - 1) for each in long]
    assert figures["p50_tpot_ms"] == pytest.approx(1e3 * statistics.median(paces))
    assert figures["p99.9_e2el_ms"] <= 1e3 * max(each.latency for each in done)
    good = [each for each in done if each.latency <= 0.8 and (not each.itl or statistics.mean(each.itl) <= 0.06)]
    assert figures["request_goodput"] == len(good) / 4


def test_phases_share_the_steps_and_their_time(rng: np.random.Generator) -> None:
    steps = random_steps(rng)
    prefill, decode = split_phases(steps, 500, Roofline(null_manifest(), LIMITS))
    assert prefill.seconds + decode.seconds == pytest.approx(sum(step.seconds for step in steps))
    assert prefill.tokens == 500 and decode.tokens == sum(step.logit_rows for step in steps if step.is_decode)
    assert decode.tokens_per_second == pytest.approx(decode.tokens / decode.seconds)
    assert decode.python_seconds == pytest.approx(statistics.mean(step.seconds / 2 for step in decode.steps))
    result = summarize_throughput(steps, 7, 500, None)
    assert result.output_tokens == sum(step.logit_rows for step in steps) and result.share_of_limit is None


def test_the_bound_of_a_step_is_the_slower_of_arithmetic_and_memory(rng: np.random.Generator) -> None:
    manifest = null_manifest()
    work = replace(
        manifest.work,
        layer_flops_per_token=int(rng.integers(1, 10**9)),
        logits_flops_per_row=int(rng.integers(1, 10**9)),
        weight_bytes_per_step=int(rng.integers(1, 10**9)),
        kv_bytes_per_token=int(rng.integers(1, 10**6)),
    )
    roofline = Roofline(replace(manifest, work=work), LIMITS)
    types = {module.activations for module in manifest.precision.values()} or {manifest.model.dtype}
    peak = max(LIMITS.peak(dtype) for dtype in types)
    for tokens, rows, context in rng.integers(1, 5000, (20, 3)).tolist():
        arithmetic = (tokens * work.layer_flops_per_token + rows * work.logits_flops_per_row) / peak
        memory = (work.weight_bytes_per_step + context * work.kv_bytes_per_token) / LIMITS.read
        bound = roofline.step(tokens, rows, context)
        assert bound.seconds == pytest.approx(max(arithmetic, memory))
        assert bound.by == ("arithmetic" if arithmetic > memory else "memory")


def test_the_best_of_two_measurements_of_the_machine_is_the_limit() -> None:
    other = MachineLimits(2, 4e10, {"float32": 2e11, "bfloat16": 3e11})
    assert LIMITS.at_best(other) == MachineLimits(2, 5e10, {"float32": 2e11, "bfloat16": 4e11})


def test_rows_that_are_multiplied_in_another_type_are_held_to_its_peak() -> None:
    assert LIMITS.peak("bfloat16") == 4e11 and LIMITS.peak("float16") == LIMITS.peak("float32") == LIMITS.peak("int16")
    assert LIMITS.peak("float8_e4m3fn") == LIMITS.peak("bfloat16")
    for int8, int16 in ((9e11, 4.5e11), (1.5e11, 1e11)):
        assert MachineLimits(2, 5e10, {**LIMITS.peaks, "int8": int8}).peak("int16") == int16
    assert {*get_args(RowDtype)} <= {*WIDER, *MADE_OF}


def test_figures_without_samples_are_null_in_the_file(tmp_path: Path, rng: np.random.Generator) -> None:
    prompts_only = [step for step in random_steps(rng) if not step.is_decode]
    result = summarize_latency([prompts_only], Workload(1, 8, 1), None)
    write_result(tmp_path / "new" / "result.json", result.as_dict())
    text = (tmp_path / "new" / "result.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["decode"]["tokens_per_second"] is None
    assert json.loads(text)["prefill"]["mean_step_ms"] > 0


def test_the_steps_of_a_batch_hold_all_of_its_tokens(timer: StepTimer, rng: np.random.Generator) -> None:
    prompts, length, output = int(rng.integers(1, 5)), int(rng.integers(1, 60)), int(rng.integers(1, 60))
    steps = timer.run(rng.integers(0, 9, (prompts, length)).tolist(), output)
    assert sum(step.logit_rows for step in steps) == prompts * output
    assert sum(step.tokens for step in steps) == prompts * (length + output - 1)
    assert all(0 < step.executor_seconds <= step.seconds for step in steps)
    assert all(step.tokens == step.logit_rows == step.sequences for step in steps if step.is_decode)


def test_a_workload_that_does_not_fit_is_refused_before_anything_runs(timer: StepTimer) -> None:
    fits = Workload(1, 8, 8)
    with pytest.raises(EngineError, match="max_batch_size, 4"):
        run_latency(timer, [fits, Workload(5, 8, 8)], warmup=0, iterations=1, seed=0)
    with pytest.raises(EngineError, match="max_seq_len, 128"):
        run_throughput(timer, 3, 100, 29, seed=0)
    with pytest.raises(EngineError, match="target null have no profiler"):
        run_latency(timer, [fits], warmup=0, iterations=1, seed=0, profile=True)
