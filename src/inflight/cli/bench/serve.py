"""`inflight bench serve`: a running server, measured by its clients."""

from __future__ import annotations

import json
import math
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inflight.cli.bench.result_file import write_result

if TYPE_CHECKING:
    from inflight.benchmark.serve.session import ServeBenchResult

_SERVER, _PROMPTS, _LOAD, _RESULT = "Server", "Prompts", "Load", "Result"


class Backend(str, Enum):
    openai = "openai"
    openai_chat = "openai-chat"
    triton = "triton"


class Dataset(str, Enum):
    random = "random"
    sharegpt = "sharegpt"
    custom = "custom"


def serve(
    goodput_more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    backend: Annotated[
        Backend, typer.Option("--backend", "--endpoint-type", help="API to call.", rich_help_panel=_SERVER)
    ] = Backend.openai,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            "--url",
            "-u",
            "--server",
            help="Address of the server: http://HOST:PORT.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Host, without --base-url.", rich_help_panel=_SERVER)] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port. Default: 9000; triton (gRPC): 8001.", rich_help_panel=_SERVER)
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Path of the API. Default: that of the backend.", rich_help_panel=_SERVER)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            "--served-model-name",
            help="Model name. Default: the server's model.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Engine or model directory whose tokenizer makes and counts text.", rich_help_panel=_PROMPTS),
    ] = None,
    dataset_name: Annotated[
        Dataset, typer.Option("--dataset-name", help="Source of the prompts.", rich_help_panel=_PROMPTS)
    ] = Dataset.random,
    dataset_path: Annotated[
        Path | None,
        typer.Option("--dataset-path", "--dataset", help="File, for sharegpt and custom.", rich_help_panel=_PROMPTS),
    ] = None,
    num_prompts: Annotated[
        int,
        typer.Option(
            "--num-prompts",
            "--num-requests",
            "--request-count",
            "--max-num-samples",
            help="Number of requests.",
            rich_help_panel=_PROMPTS,
        ),
    ] = 1000,
    random_input_len: Annotated[
        int,
        typer.Option(
            "--random-input-len",
            "--input-len",
            "--synthetic-input-tokens-mean",
            help="Tokens per prompt.",
            rich_help_panel=_PROMPTS,
        ),
    ] = 1024,
    random_output_len: Annotated[
        int,
        typer.Option(
            "--random-output-len",
            "--output-len",
            "--output-tokens-mean",
            help="Tokens to generate.",
            rich_help_panel=_PROMPTS,
        ),
    ] = 128,
    random_range_ratio: Annotated[
        float, typer.Option(help="Vary lengths by up to this share, up and down.", rich_help_panel=_PROMPTS)
    ] = 0.0,
    random_prefix_len: Annotated[
        int, typer.Option(help="Tokens of a prefix that all prompts share.", rich_help_panel=_PROMPTS)
    ] = 0,
    sharegpt_output_len: Annotated[
        int | None, typer.Option(help="Tokens to generate. Default: as in the data set.", rich_help_panel=_PROMPTS)
    ] = None,
    custom_output_len: Annotated[int, typer.Option(help="Tokens to generate.", rich_help_panel=_PROMPTS)] = 256,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos/--no-ignore-eos", help="Generate past end tokens.", rich_help_panel=_PROMPTS)
    ] = True,
    temperature: Annotated[float, typer.Option(help="0 = greedy.", rich_help_panel=_PROMPTS)] = 0.0,
    extra_body: Annotated[
        str | None, typer.Option(help="JSON object added to each request; OpenAI only.", rich_help_panel=_PROMPTS)
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", "--random-seed", help="Seed of the random prompts.", rich_help_panel=_PROMPTS)
    ] = 0,
    max_concurrency: Annotated[
        int | None,
        typer.Option(
            "--max-concurrency",
            "--concurrency",
            "--concurrency-range",
            help="Requests in flight, at most. Default: no limit.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    request_rate: Annotated[
        float,
        typer.Option(
            "--request-rate",
            "--request_rate",
            "--request-rate-range",
            help="Requests per second; inf = all at once.",
            rich_help_panel=_LOAD,
        ),
    ] = math.inf,
    burstiness: Annotated[
        float, typer.Option(help="1 = Poisson arrivals; below 1 burstier, above 1 steadier.", rich_help_panel=_LOAD)
    ] = 1.0,
    num_warmups: Annotated[
        int, typer.Option("--num-warmups", "--warmup-request-count", help="Warm-up requests.", rich_help_panel=_LOAD)
    ] = 1,
    goodput: Annotated[
        list[str] | None,
        typer.Option(
            "--goodput",
            metavar="METRIC:MS...",
            help="Count requests that stay within these limits.",
            rich_help_panel=_RESULT,
        ),
    ] = None,
    percentile_metrics: Annotated[
        str, typer.Option(help="Metrics with percentiles: ttft, tpot, itl, e2el.", rich_help_panel=_RESULT)
    ] = "ttft,tpot,itl,e2el",
    metric_percentiles: Annotated[
        str, typer.Option(help="Percentiles to report.", rich_help_panel=_RESULT)
    ] = "50,90,99",
    save_result: Annotated[
        bool, typer.Option("--save-result", help="Write the results to a JSON file.", rich_help_panel=_RESULT)
    ] = False,
    save_detailed: Annotated[
        bool, typer.Option("--save-detailed", help="Write each request's figures as well.", rich_help_panel=_RESULT)
    ] = False,
    result_dir: Annotated[
        Path, typer.Option(file_okay=False, help="Directory of the JSON file.", rich_help_panel=_RESULT)
    ] = Path(),
    result_filename: Annotated[
        str | None,
        typer.Option(
            "--result-filename", "--profile-export-file", help="Name of the JSON file.", rich_help_panel=_RESULT
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Prefix of the file's name.", rich_help_panel=_RESULT)] = None,
) -> None:
    """Benchmark a running server: throughput, TTFT (time to first token), TPOT (time per output token) and ITL
    (inter-token latency). Flags and output are those of `vllm bench serve`.

    Examples:

      inflight bench serve --max-concurrency 32 --num-prompts 128 --random-input-len 128 --random-output-len 64

      inflight bench serve --backend triton --port 8001 --request-rate 4 --goodput ttft:500 tpot:80 --save-result
    """
    from inflight.benchmark.serve.options import ServeBenchOptions
    from inflight.benchmark.serve.session import bench_server
    from inflight.cli.bench.serve_report import print_result

    if goodput_more and not goodput:
        raise typer.BadParameter(f"{goodput_more[0]} is not a flag; a server is named with --base-url.")
    values = {
        "backend": backend.value,
        "base_url": base_url or f"http://{host}:{port or (8001 if backend is Backend.triton else 9000)}",
        "endpoint": endpoint,
        "model": model,
        "tokenizer": tokenizer,
        "dataset_name": dataset_name.value,
        "dataset_path": dataset_path,
        "num_prompts": num_prompts,
        "num_warmups": num_warmups,
        "random_input_len": random_input_len,
        "random_output_len": random_output_len,
        "random_range_ratio": random_range_ratio,
        "random_prefix_len": random_prefix_len,
        "sharegpt_output_len": sharegpt_output_len,
        "custom_output_len": custom_output_len,
        "max_concurrency": max_concurrency,
        "request_rate": request_rate,
        "burstiness": burstiness,
        "ignore_eos": ignore_eos,
        "temperature": temperature,
        "extra_body": _json(extra_body),
        "seed": seed,
        "goodput": _limits([*(goodput or []), *(goodput_more or [])]),
        "percentile_metrics": tuple(percentile_metrics.split(",")),
        "metric_percentiles": tuple(metric_percentiles.split(",")),
    }
    result = bench_server(_validated(ServeBenchOptions, values))
    print_result(result)
    if save_result or save_detailed or result_filename:
        path = result_dir / (result_filename or _file_name(result, label))
        write_result(path, result.as_dict(save_detailed))
        typer.echo(f"Written: {path}", err=True)


def _validated(record: Any, values: dict[str, Any]) -> Any:
    """The record. Raises BadParameter that names the flag."""
    from pydantic import ValidationError

    try:
        return record.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        flag = "--" + str(problem["loc"][0]).replace("_", "-")
        raise typer.BadParameter(f"{flag} {problem['input']}: {problem['msg']}.") from None


def _limits(items: list[str]) -> dict[str, str]:
    """METRIC:MS, repeated or separated by spaces or commas."""
    pairs = [item.partition(":") for text in items for item in text.replace(",", " ").split()]
    for name, colon, value in pairs:
        if not colon or not value.replace(".", "", 1).isdigit():
            raise typer.BadParameter(f"--goodput {name}{colon}{value}: it must look like ttft:500.")
    return {name: value for name, _, value in pairs}


def _json(text: str | None) -> dict[str, Any]:
    try:
        values = json.loads(text or "{}")
    except ValueError as error:
        raise typer.BadParameter(f"--extra-body is not valid JSON: {error}.") from None
    if not isinstance(values, dict):
        raise typer.BadParameter("--extra-body must be a JSON object.")
    return values


def _file_name(result: ServeBenchResult, label: str | None) -> str:
    """As vLLM names its files."""
    options = result.options
    concurrency = f"-concurrency{options.max_concurrency}" if options.max_concurrency else ""
    model = (options.model or "model").split("/")[-1]
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"{label or options.backend}-{options.request_rate}qps{concurrency}-{model}-{stamp}.json"
