"""`inflight serve`: an engine behind Triton and an OpenAI-compatible endpoint."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from inflight.cli.build_engine.recipe_flags import Flags, is_given, registered, with_flags_of
from inflight.cli.convert import Dtype
from inflight.cli.options import sampling as flag
from inflight.cli.options import serving
from inflight.cli.options.origins import read_origins
from inflight.cli.options.quantization import BuiltGroupSize


class RestartChoice(str, Enum):
    always = "always"
    never = "never"


class PolicyChoice(str, Enum):
    guaranteed_no_evict = "guaranteed_no_evict"
    max_utilization = "max_utilization"


_OPERATIONS = "Operations"
_PORTS, _BUILD = "Addresses", flag.BUILD


@with_flags_of("cpu", _BUILD)
def serve(
    ctx: typer.Context,
    model: Annotated[
        list[str],
        typer.Argument(
            metavar="ENGINE|MODEL...",
            help="Engine directory, or a model: directory, hub id, GGUF file, s3:// address. Several: NAME=MODEL.",
        ),
    ],
    flags: Flags,
    port: Annotated[int, typer.Option(help="Port of the OpenAI-compatible API.", rich_help_panel=_PORTS)] = 9000,
    http_port: Annotated[
        int, typer.Option("--http-port", "--http_port", help="Port of Triton's HTTP API.", rich_help_panel=_PORTS)
    ] = 8000,
    grpc_port: Annotated[
        int, typer.Option("--grpc-port", "--grpc_port", help="Port of Triton's gRPC API.", rich_help_panel=_PORTS)
    ] = 8001,
    metrics_port: Annotated[
        int, typer.Option("--metrics-port", "--metrics_port", help="Port of Triton's metrics.", rich_help_panel=_PORTS)
    ] = 8002,
    host: Annotated[
        str,
        typer.Option(
            help="Address or name to listen on. 0.0.0.0 opens it to other machines, without authentication.",
            rich_help_panel=_PORTS,
        ),
    ] = "127.0.0.1",
    served_model_name: Annotated[
        str | None, typer.Option("--served-model-name", help="Model name for clients. Default: the source model's.")
    ] = None,
    strict_model_name: Annotated[
        bool, typer.Option("--strict-model-name", help="Refuse requests for another model name. Default: any will do.")
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin",
            "--allowed-origins",
            help="Origin of web pages that may call the API from a browser (CORS), * for all; repeatable.",
            rich_help_panel=_PORTS,
        ),
    ] = None,
    tool_call_parser: flag.ToolCallParser = None,
    reasoning_parser: flag.ReasoningParser = None,
    chat_template: flag.ChatTemplate = None,
    default_chat_template_kwargs: flag.TemplateVariables = None,
    load_model: Annotated[
        list[str] | None,
        typer.Option(
            "--load-model",
            metavar="NAME",
            help="Of several models: one that is loaded at the start; repeatable. Default: all. Others can be later.",
        ),
    ] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Run the engine in the process of the OpenAI API, without Triton.")
    ] = False,
    scheduler_policy: Annotated[
        PolicyChoice,
        typer.Option(
            "--scheduler-policy",
            "--batch-scheduler-policy",
            case_sensitive=False,
            help="When to admit a request. guaranteed_no_evict: when its maximum length fits into the KV cache; "
            "max_utilization: when its next step fits; requests may be preempted and recomputed.",
            rich_help_panel="Engine",
        ),
    ] = PolicyChoice.guaranteed_no_evict,
    prefix_caching: Annotated[
        bool,
        typer.Option(
            "--enable-prefix-caching/--no-enable-prefix-caching",
            help="Prefix caching: reuse the KV cache blocks of prompts that begin with the same tokens.",
            rich_help_panel="Engine",
        ),
    ] = True,
    max_queue_size: serving.MaxQueueSize = 0,
    waiting_served_ratio: serving.WaitingServedRatio = None,
    max_waiting_tokens: serving.MaxWaitingTokens = None,
    max_body_bytes: serving.MaxBodyBytes = 4 << 20,
    watermark_gamma: serving.WatermarkGamma = 0.5,
    watermark_delta: serving.WatermarkDelta = 2.0,
    threads: flag.Threads = None,
    kv_cache_bytes: Annotated[
        int | None,
        typer.Option("--kv-cache-bytes", help="Size of the KV cache in bytes, at most.", rich_help_panel="Engine"),
    ] = None,
    kv_cache_tokens: flag.KvCacheTokens = None,
    kv_cache_fraction: flag.KvCacheFraction = 0.9,
    kv_offload_dir: flag.KvOffloadDir = None,
    kv_offload_bytes: flag.KvOffloadBytes = None,
    kv_offload_gib: serving.KvOffloadGib = None,
    restart: Annotated[
        RestartChoice,
        typer.Option(
            case_sensitive=False,
            help="What to do when a process of the server dies. always: start it again, at most 5 times in 5 minutes; "
            "never: exit with code 3.",
            rich_help_panel=_OPERATIONS,
        ),
    ] = RestartChoice.always,
    drain_seconds: Annotated[
        float,
        typer.Option(
            "--drain-seconds",
            min=0,
            help="When asked to stop: how long running requests may go on. New ones are answered 503.",
            rich_help_panel=_OPERATIONS,
        ),
    ] = 30,
    hang_seconds: Annotated[
        float,
        typer.Option(
            "--hang-seconds",
            min=0.1,
            help="How long a step of the engine may run before it is called hanging: in the log and in /health.",
            rich_help_panel=_OPERATIONS,
        ),
    ] = 10,
    target: Annotated[
        str,
        typer.Option(
            help="What a model is built for. transformers: for what has no row in docs/families.md; slow.",
            metavar="NAME",
            callback=registered,
            rich_help_panel=_BUILD,
        ),
    ] = "cpu",
    dtype: Annotated[Dtype, typer.Option(help="Data type of the weights.", rich_help_panel=_BUILD)] = Dtype.auto,
    quantize: Annotated[
        str | None,
        typer.Option(
            "--quantize",
            "--quantization",
            "-q",
            metavar="SCHEME",
            help="Quantize the weights: int8_wo, int8_w8a8, int4_wo, nf4, or, calibrated on a text, int4, int4_awq, "
            "int8_sq, fp8 (`inflight convert --help` has them all). Also eetq, bitsandbytes, bitsandbytes-nf4; names "
            "of formats, such as awq and gptq, keep the numbers of a model that has them.",
            rich_help_panel=_BUILD,
        ),
    ] = None,
    group_size: BuiltGroupSize = None,
    dequantize: flag.Dequantize = False,
    score_tokens: flag.ScoreTokens = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub model.", rich_help_panel=_BUILD)
    ] = None,
) -> None:
    """Serve a model: Triton on 8000 (HTTP), 8001 (gRPC) and 8002 (metrics), an OpenAI-compatible API on 9000.

    A model that is not an engine yet is converted and built first; the engine is cached for the next time. Where Triton
    cannot run, the reason is printed and it is served without, as with --embedded.

    Examples:

      inflight serve engine

      inflight serve Qwen/Qwen2.5-0.5B-Instruct --dtype bfloat16 --max-model-len 4096

      inflight serve engine --embedded --port 8080 --served-model-name demo

      inflight serve bigscience/bloom-560m --target transformers

      inflight serve ./Llama-3.2-1B --quantize int8_wo

      inflight serve ./Qwen3-Reranker-0.6B --score-tokens yes,no

      inflight serve small=./engine large=Qwen/Qwen2.5-7B-Instruct --load-model small

    Flags of vllm serve, text-generation-launcher and sglang.launch_server are taken, too: docs/migration.md.
    """
    if kv_offload_gib and kv_offload_bytes is None:
        kv_offload_bytes = round(kv_offload_gib * 2**30)
    from inflight.cli.engines.named import named_engines
    from inflight.cli.engines.request import EngineRequest
    from inflight.progress import console
    from inflight.runtime.kv_cache.offload.config import KvOffload
    from inflight.runtime.loading.engine_directory import read_engine_directory
    from inflight.runtime.scheduler.admission import waiting_rule
    from inflight.runtime.text.chat.given_template import load_chat_template, read_template_variables
    from inflight.runtime.text.parsers.reasoning.families import reasoning_family
    from inflight.runtime.text.parsers.tools.registry import find_tool_format
    from inflight.triton_backend.launch.options import ServeOptions
    from inflight.triton_backend.launch.serving import serve_engine

    if tool_call_parser is not None:
        find_tool_format(tool_call_parser)
    reasoning_family(reasoning_parser, None)
    offload = KvOffload.of(kv_offload_dir, kv_offload_bytes)
    request = EngineRequest(
        model=model[0],
        target=target if is_given(ctx, "target") else None,
        dtype=dtype.value,
        quantize=quantize,
        group_size=group_size,
        dequantize=dequantize,
        score_tokens=score_tokens,
        revision=revision,
        recipe=flags,
    )
    if chat_template is not None and len(model) > 1:
        raise typer.BadParameter("--chat-template is for one model.")
    if score_tokens is not None and len(model) > 1:
        raise typer.BadParameter("--score-tokens is for one model. Convert the other ones, and give their engines.")
    models = named_engines(model, request, served_model_name, load_model)
    engine = models[0].engine_dir if models else request.engine()
    name = served_model_name or read_engine_directory(engine).manifest.source.model
    serve_options = ServeOptions.model_validate(
        {
            "model_name": name,
            "strict_model_name": strict_model_name,
            "models": models,
            "load_models": load_model or None,
            "tool_call_parser": tool_call_parser,
            "reasoning_parser": reasoning_parser,
            "chat_template": load_chat_template(chat_template),
            "template_variables": read_template_variables(default_chat_template_kwargs),
            "allowed_origins": read_origins(cors_origin or ()),
            "host": host,
            "port": port,
            "http_port": http_port,
            "grpc_port": grpc_port,
            "metrics_port": metrics_port,
            "embedded": embedded,
            "threads": threads,
            "kv_cache_bytes": kv_cache_bytes,
            "kv_cache_tokens": kv_cache_tokens,
            "kv_cache_fraction": kv_cache_fraction,
            "kv_offload_dir": offload and offload.directory and str(offload.directory),
            "kv_offload_bytes": offload and offload.bytes,
            "policy": scheduler_policy.value,
            "prefix_caching": prefix_caching,
            "max_queue_size": max_queue_size,
            "max_body_bytes": max_body_bytes,
            "waiting": waiting_rule(waiting_served_ratio, max_waiting_tokens),
            "watermark": (watermark_gamma, watermark_delta),
            "restart": restart.value,
            "drain_s": drain_seconds,
            "hang_s": hang_seconds,
        }
    )
    serve_engine(engine, serve_options, lambda text: console.print(text, soft_wrap=True))
