"""The arguments and flags that generate and chat share. A flag that is not given takes the model's own default."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from inflight.runtime.offline.llm import LLM
    from inflight.runtime.sampling.params import SamplingParams

_SAMPLING = "Sampling"
_ENDING = "Ending"
_ENGINE = "Engine"

Temperature = Annotated[float | None, typer.Option(help="0 is greedy.", rich_help_panel=_SAMPLING)]
TopK = Annotated[int | None, typer.Option(help="Choose among the K likeliest; 0: all.", rich_help_panel=_SAMPLING)]
TopP = Annotated[float | None, typer.Option(help="Among the likeliest that sum to P.", rich_help_panel=_SAMPLING)]
MinP = Annotated[
    float | None, typer.Option(help="Leave out what is below P times the likeliest.", rich_help_panel=_SAMPLING)
]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Above 1: less of prompt and output again.", rich_help_panel=_SAMPLING)
]
PresencePenalty = Annotated[
    float | None, typer.Option(help="-2 to 2, for each token already in the output.", rich_help_panel=_SAMPLING)
]
FrequencyPenalty = Annotated[
    float | None, typer.Option(help="-2 to 2, times how often it is in the output.", rich_help_panel=_SAMPLING)
]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.", rich_help_panel=_SAMPLING)]
BadWords = Annotated[
    list[str] | None, typer.Option("--bad-word", help="A word never to write; repeatable.", rich_help_panel=_SAMPLING)
]
LogitBias = Annotated[
    list[str] | None,
    typer.Option("--logit-bias", metavar="ID=VALUE", help="Added to a token's logit.", rich_help_panel=_SAMPLING),
]

MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", "--max-output-len", help="At most; 0: as many as fit.", rich_help_panel=_ENDING),
]
MinTokens = Annotated[int | None, typer.Option(help="Do not end before.", rich_help_panel=_ENDING)]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="A string that ends it.", rich_help_panel=_ENDING)]
StopTokenIds = Annotated[
    list[int] | None, typer.Option("--stop-token-id", help="A token that ends it.", rich_help_panel=_ENDING)
]
IncludeStop = Annotated[
    bool, typer.Option("--include-stop-str-in-output", help="Keep the stop string.", rich_help_panel=_ENDING)
]
IgnoreEos = Annotated[
    bool, typer.Option("--ignore-eos", help="Go on past the model's end tokens.", rich_help_panel=_ENDING)
]
KeepSpecialTokens = Annotated[
    bool, typer.Option("--keep-special-tokens", help="Show special tokens.", rich_help_panel=_ENDING)
]

Engine = Annotated[
    str, typer.Argument(metavar="ENGINE", help="Engine directory; or a model, directory or hub id, built once.")
]
Threads = Annotated[int | None, typer.Option(help="Default: every core it may use.", rich_help_panel=_ENGINE)]
KvCacheTokens = Annotated[
    int | None,
    typer.Option(
        "--kv-cache-tokens", "--max-tokens-in-paged-kv-cache", help="The most it may hold.", rich_help_panel=_ENGINE
    ),
]
KvCacheFraction = Annotated[
    float,
    typer.Option(
        "--kv-cache-fraction",
        "--kv-cache-free-gpu-mem-fraction",
        "--gpu-memory-utilization",
        help="Of the free memory.",
        rich_help_panel=_ENGINE,
    ),
]


def read_sampling_params(llm: LLM, **given: Any) -> SamplingParams:
    """The model's defaults with what was given on the command line; None stands for not given.

    Raises RequestError on a value out of range.
    """
    overrides = {name: value for name, value in given.items() if value is not None}
    if "max_tokens" in overrides:
        overrides["max_tokens"] = overrides["max_tokens"] or None
    if "logit_bias" in overrides:
        overrides["logit_bias"] = dict(map(_read_bias, overrides["logit_bias"]))
    return llm.default_sampling_params(**overrides)


def open_llm(engine: str, threads: int | None, kv_cache_tokens: int | None, kv_cache_fraction: float) -> LLM:
    """The engine that the flags describe; a model is converted and built first, once. Raises what either raises."""
    _begin_to_map(Path(engine).expanduser())
    from inflight.cli.resolve import resolve_engine
    from inflight.runtime.loading.load import KvCacheBudget
    from inflight.runtime.offline.llm import LLM

    budget = KvCacheBudget(tokens=kv_cache_tokens, fraction=kv_cache_fraction)
    return LLM(resolve_engine(engine), threads=threads, kv_cache=budget)


def fit_max_tokens(llm: LLM, params: SamplingParams, prompt_length: int) -> SamplingParams:
    """`params` with max_tokens lowered to what the engine has room for after the prompt, if it is more than that."""
    from dataclasses import replace

    room = llm.manifest.limits.max_seq_len - prompt_length
    if params.max_tokens is None or params.max_tokens <= room:
        return params
    return replace(params, max_tokens=max(room, 1), min_tokens=min(params.min_tokens, max(room, 1)))


def read_stdin() -> str:
    """All of standard input as UTF-8; bytes that are none read as replacement characters."""
    return sys.stdin.buffer.read().decode("utf-8", errors="replace")


def _begin_to_map(directory: Path) -> None:
    """What the target needs is read while Python imports the rest. What is wrong with it is said on opening it."""
    from inflight.errors import InflightError
    from inflight.runtime.executors.registry import find_loader

    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
        find_loader(manifest["target"]).read_ahead(directory, manifest)
    except (OSError, ValueError, LookupError, TypeError, InflightError):
        return


def _read_bias(text: str) -> tuple[int, float]:
    token_id, _, value = text.partition("=")
    try:
        return int(token_id), float(value)
    except ValueError:
        raise typer.BadParameter(f"--logit-bias {text}: it must look like 42=-1.5.") from None
