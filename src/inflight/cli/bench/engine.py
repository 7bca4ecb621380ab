"""`inflight bench latency` and `inflight bench throughput`: an engine in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inflight.cli.bench.result_file import write_result
from inflight.cli.options import sampling as flag

if TYPE_CHECKING:
    from inflight.benchmark.offline.steps import StepTimer

# Enough for the prompts of a benchmark: the default fraction would reserve memory that is not used.
_KV_FRACTION = 0.5

OutputLen = Annotated[
    int, typer.Option("--output-len", "--max-output-len", min=1, help="Tokens to generate per prompt.")
]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        "--output-json",
        metavar="FILE",
        dir_okay=False,
        writable=True,
        help="Also write the results to this JSON file.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the random prompts.")]
Profile = Annotated[bool, typer.Option("--profile", help="Show the time of each operator (cpu target).")]


def latency(
    engine: flag.Engine,
    input_len: Annotated[
        list[str] | None, typer.Option("--input-len", help="Tokens per prompt; several as 128,512 or repeated.")
    ] = None,
    output_len: OutputLen = 64,
    batch_size: Annotated[
        list[str] | None, typer.Option("--batch-size", help="Prompts per batch; several as 1,8,32 or repeated.")
    ] = None,
    num_iters: Annotated[int, typer.Option(min=1, help="Number of measured runs.")] = 3,
    num_iters_warmup: Annotated[
        int, typer.Option("--num-iters-warmup", "--warm-up", min=0, help="Number of warm-up runs.")
    ] = 1,
    json_file: JsonFile = None,
    profile: Profile = False,
    seed: Seed = 0,
    dequantize: flag.Dequantize = False,
    threads: flag.Threads = None,
    kv_cache_tokens: flag.KvCacheTokens = None,
) -> None:
    """Measure batches of random prompts: prefill and decode separately, each also as a share of the machine's limit.

    Each combination of --input-len and --batch-size is one row. Greedy, end tokens ignored, without prefix caching.

    Examples:

      inflight bench engine

      inflight bench engine --input-len 128,512,2048 --batch-size 1,16 --output-len 128 --json bench.json
    """
    from inflight.benchmark.offline.latency import Workload
    from inflight.benchmark.offline.session import run_latency
    from inflight.cli.bench.engine_report import print_latency

    workloads = [
        Workload(batch, length, output_len)
        for length in _integers("--input-len", input_len, [128])
        for batch in _integers("--batch-size", batch_size, [1, 8, 32])
    ]
    timer = _open(engine, dequantize, threads, kv_cache_tokens)
    try:
        report = run_latency(
            timer, workloads, warmup=num_iters_warmup, iterations=num_iters, seed=seed, profile=profile
        )
    finally:
        timer.close()
    print_latency(report)
    if json_file is not None:
        write_result(json_file, report.as_dict())
    report.check()


def throughput(
    engine: flag.Engine,
    num_prompts: Annotated[int, typer.Option("--num-prompts", min=1, help="Number of prompts, all sent at once.")] = 64,
    input_len: Annotated[
        int, typer.Option("--input-len", "--random-input-len", min=1, help="Tokens per prompt.")
    ] = 128,
    output_len: OutputLen = 64,
    json_file: JsonFile = None,
    seed: Seed = 0,
    dequantize: flag.Dequantize = False,
    threads: flag.Threads = None,
    kv_cache_tokens: flag.KvCacheTokens = None,
) -> None:
    """Measure the throughput of an engine on random prompts. Greedy, end tokens ignored, without prefix caching.

    Examples:

      inflight bench throughput engine --num-prompts 32 --input-len 128 --output-len 64
    """
    from inflight.benchmark.offline.session import run_throughput
    from inflight.cli.bench.engine_report import print_throughput

    timer = _open(engine, dequantize, threads, kv_cache_tokens)
    try:
        report = run_throughput(timer, num_prompts, input_len, output_len, seed=seed)
    finally:
        timer.close()
    print_throughput(report)
    if json_file is not None:
        write_result(json_file, report.as_dict())
    report.check()


def _open(engine: str, dequantize: bool, threads: int | None, kv_cache_tokens: int | None) -> StepTimer:
    from inflight.benchmark.offline.steps import StepTimer
    from inflight.cli.engines.resolve import resolve_engine
    from inflight.runtime.loading.load import KvCacheBudget

    budget = KvCacheBudget(tokens=kv_cache_tokens, fraction=_KV_FRACTION)
    return StepTimer.open(resolve_engine(engine, dequantize=dequantize), threads, budget)


def _integers(name: str, given: list[str] | None, default: list[int]) -> list[int]:
    """Positive integers out of repeated flags and comma-separated lists."""
    words = [word for text in given or [] for word in text.split(",") if word]
    try:
        values = [int(word) for word in words]
    except ValueError:
        raise typer.BadParameter(f"{name} {','.join(words)}: it takes integers, such as 128,512.") from None
    if any(value < 1 for value in values):
        raise typer.BadParameter(f"{name} must be at least 1.")
    return values or default
