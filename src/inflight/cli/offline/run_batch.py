"""`inflight run-batch`: answer a file of requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inflight.cli.options import sampling as flag

if TYPE_CHECKING:
    from inflight.triton_backend.batch.lines import BatchLine
    from inflight.triton_backend.batch.results import Results
    from inflight.triton_backend.openai.service import Service


def run_batch(
    engine: flag.Engine,
    input_file: Annotated[
        Path, typer.Option("-i", "--input-file", help="Requests, one JSON object a line.", metavar="FILE")
    ],
    output_file: Annotated[
        Path,
        typer.Option("-o", "--output-file", help="Answers, one a line, as they are ready.", metavar="FILE"),
    ],
    served_model_name: Annotated[
        str | None, typer.Option("--served-model-name", help="Model name in the answers. Default: the source model's.")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency", min=1, help="Most requests at a time. Default: twice the engine's batch, which stays full."
        ),
    ] = None,
    chat_template: flag.ChatTemplate = None,
    dequantize: flag.Dequantize = False,
    threads: flag.Threads = None,
    kv_cache_tokens: flag.KvCacheTokens = None,
    kv_cache_fraction: flag.KvCacheFraction = 0.9,
) -> None:
    """Answer the requests of a file in OpenAI's batch format, with the routes of `inflight serve` and without a server.

    A line is {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}; its answer has its
    custom_id. A line that is wrong is answered with an error, and the others go on.

    An interrupted run goes on when the command is given again: what the output file answers is not asked again, but for
    answers of 429 and of 500 and above.

    Examples:

      inflight run-batch engine -i requests.jsonl -o answers.jsonl

      inflight run-batch Qwen/Qwen2.5-0.5B-Instruct -i requests.jsonl -o answers.jsonl --served-model-name qwen
    """
    import asyncio

    from inflight.cli.engines.resolve import resolve_engine
    from inflight.progress import console
    from inflight.runtime.engine.heartbeat import Heartbeat
    from inflight.runtime.loading.engine_directory import read_engine_directory
    from inflight.runtime.text.chat.given_template import load_chat_template
    from inflight.triton_backend.batch.lines import read_batch
    from inflight.triton_backend.batch.results import Results
    from inflight.triton_backend.launch.api.service import open_service
    from inflight.triton_backend.launch.options import ServeOptions

    lines = read_batch(input_file)
    custom_ids = {line.custom_id for line in lines if line.custom_id is not None}
    with Results(output_file, custom_ids) as results:
        place = resolve_engine(engine, dequantize=dequantize)
        options = ServeOptions.model_validate(
            {
                "model_name": served_model_name or read_engine_directory(place).manifest.source.model,
                "chat_template": load_chat_template(chat_template),
                "threads": threads,
                "kv_cache_tokens": kv_cache_tokens,
                "kv_cache_fraction": kv_cache_fraction,
            }
        )
        before = len(results.answered)
        service = open_service(place, options, None, Heartbeat())
        asyncio.run(_answer(service, lines, results, concurrency))
    already = f", {before} were there" if before else ""
    said = f"{len(lines)} lines answered in {output_file}: {results.errors} with errors{already}."
    console.print(said, soft_wrap=True, markup=False)


async def _answer(service: Service, lines: list[BatchLine], results: Results, concurrency: int | None) -> None:
    from inflight.progress import progress_bar
    from inflight.triton_backend.batch.run import run_batch as run
    from inflight.triton_backend.openai.app import create_app

    most = concurrency or 2 * service.manifest.limits.max_batch_size
    try:
        with progress_bar("Answering", len(lines)) as advance:
            advance(len(results.answered))
            await run(create_app(service), lines, results, most, advance)
    finally:
        await service.backend.close()
