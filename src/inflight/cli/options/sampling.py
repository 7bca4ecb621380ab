"""The arguments and flags that generate and chat share. A flag that is not given takes the model's own default."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inflight.sampling_parameters import SAMPLING_PARAMETERS, SamplingParameter

if TYPE_CHECKING:
    from inflight.runtime.offline.llm import LLM
    from inflight.runtime.sampling.params import SamplingParams

_ENDING = "Ending"
_ENGINE = "Engine"
BUILD = "Build options, when a model is given instead of an engine"
SCORE_TOKENS_HELP = (
    "Make a model that generates into one that scores pairs of texts (/v1/rerank, /score): by the logit of a token, or "
    "what it is more than that of a second one. yes,no for Qwen3-Reranker, Yes for bge-reranker-v2-gemma, 1,0 for "
    "mxbai-rerank-v2; not needed where modules.json says it."
)
_OPTION_TYPES: Mapping[str, Any] = {
    "integer": int | None,
    "number": float | None,
    "flag": bool,
    "strings": list[str] | None,
    "ids": list[int] | None,
    "bias": list[str] | None,
}

Command = Callable[..., None]

MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        "--max-output-len",
        help="Maximum tokens to generate; 0 = until max_seq_len.",
        rich_help_panel=_ENDING,
    ),
]
Engine = Annotated[
    str,
    typer.Argument(metavar="ENGINE|MODEL", help="Engine directory, or a model: directory, hub id or s3:// address."),
]
ToolCallParser = Annotated[
    str | None,
    typer.Option(
        "--tool-call-parser",
        help="Form in which the model calls tools (docs/formats/tools.md). Default: the one that its chat template "
        "teaches.",
        metavar="NAME",
    ),
]
ReasoningParser = Annotated[
    str | None,
    typer.Option(
        "--reasoning-parser",
        help="How the model marks its reasoning (docs/formats/reasoning.md); none: it stays in the answers. "
        "Default: as its chat template says.",
        metavar="NAME",
    ),
]
ChatTemplate = Annotated[
    str | None,
    typer.Option(
        "--chat-template",
        help="A file with a Jinja template, or the template itself, in place of the model's own.",
        metavar="FILE",
    ),
]
TemplateVariables = Annotated[
    str | None,
    typer.Option(
        "--default-chat-template-kwargs",
        help="Variables of the chat template where a request sets none, as a JSON object.",
        metavar="JSON",
    ),
]
Dequantize = Annotated[
    bool,
    typer.Option(
        "--dequantize",
        help="Of a model that is quantized already: build plain weights, in place of keeping its numbers.",
        rich_help_panel=BUILD,
    ),
]
ScoreTokens = Annotated[
    str | None,
    typer.Option(
        "--score-tokens",
        "--score_tokens",
        metavar="TOKEN[,TOKEN]",
        help=SCORE_TOKENS_HELP,
        rich_help_panel=BUILD,
    ),
]
Threads = Annotated[int | None, typer.Option(help="Number of threads. Default: all cores.", rich_help_panel=_ENGINE)]
KvCacheTokens = Annotated[
    int | None,
    typer.Option(
        "--kv-cache-tokens",
        "--max-tokens-in-paged-kv-cache",
        help="Maximum tokens of the KV cache.",
        rich_help_panel=_ENGINE,
    ),
]
KvCacheFraction = Annotated[
    float,
    typer.Option(
        "--kv-cache-fraction",
        "--kv-cache-free-gpu-mem-fraction",
        "--gpu-memory-utilization",
        help="Share of the free memory for the KV cache.",
        rich_help_panel=_ENGINE,
    ),
]
KvOffloadDir = Annotated[
    Path | None,
    typer.Option(
        "--kv-offload-dir",
        "--kv_offload_dir",
        help="Directory for KV cache blocks that leave the memory; prompts find them again, also after a restart.",
        metavar="DIR",
        rich_help_panel=_ENGINE,
    ),
]
KvOffloadBytes = Annotated[
    int | None,
    typer.Option(
        "--kv-offload-bytes",
        "--kv_offload_bytes",
        min=1,
        help="Most bytes of the files in --kv-offload-dir (4 GiB unless given); without that directory: of memory for "
        "blocks that leave the KV cache.",
        rich_help_panel=_ENGINE,
    ),
]


def sampling_options(*, chat: bool = False) -> Callable[[Command], Command]:
    """Give a command, whose arguments are keywords, the options of the table of sampling parameters.

    They stand in the place of its argument `sampling`, which gets the values that were given, by the parameters' names.
    `chat`: only those options that `inflight chat` has.
    """
    rows = [row for row in SAMPLING_PARAMETERS if row.cli is not None and (row.cli.chat or not chat)]

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(**given: Any) -> None:
            values = {row.name: _read_option(row, given.pop(row.name)) for row in rows}
            command(**given, sampling={name: value for name, value in values.items() if value is not None})

        arguments = list(inspect.signature(command, eval_str=True).parameters.values())
        place = [argument.name for argument in arguments].index("sampling")
        arguments[place : place + 1] = map(_argument, rows)
        signature = inspect.Signature(arguments)
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {argument.name: argument.annotation for argument in arguments}
        return run

    return decorate


def _argument(row: SamplingParameter) -> inspect.Parameter:
    """The argument that typer turns into the option of `row`."""
    assert row.cli is not None
    flags = [row.cli.flag or f"--{row.name.replace('_', '-')}"]
    option = typer.Option(*flags, help=row.cli.help, metavar=row.cli.metavar, rich_help_panel=row.cli.panel or None)
    kind: Any = Annotated[_OPTION_TYPES[row.kind], option]
    default = False if row.kind == "flag" else None
    return inspect.Parameter(row.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _read_option(row: SamplingParameter, value: Any) -> Any:
    """None: it was not given."""
    if row.kind == "flag":
        return (not row.cli.inverted) if value and row.cli else None
    return dict(map(_read_bias, value)) if row.kind == "bias" and value is not None else value


def read_sampling_params(llm: LLM, sampling: Mapping[str, Any], *, max_tokens: int, **more: Any) -> SamplingParams:
    """The model's defaults with what was given on the command line; `max_tokens` 0 stands for as many as fit.

    Raises RequestError on a value out of range.
    """
    return llm.default_sampling_params(**sampling, max_tokens=max_tokens or None, **more)


def open_llm(
    engine: str,
    dequantize: bool,
    threads: int | None,
    kv_cache_tokens: int | None,
    kv_cache_fraction: float,
    **more: Any,
) -> LLM:
    """The engine that the flags describe; a model is converted and built first, once. `more` goes to LLM. Raises what
    either raises."""
    _begin_to_map(Path(engine).expanduser())
    from inflight.cli.engines.resolve import resolve_engine
    from inflight.runtime.loading.load import KvCacheBudget
    from inflight.runtime.offline.llm import LLM

    budget = KvCacheBudget(tokens=kv_cache_tokens, fraction=kv_cache_fraction)
    return LLM(resolve_engine(engine, dequantize=dequantize), threads=threads, kv_cache=budget, **more)


def read_stdin() -> str:
    """All of standard input as UTF-8; bytes that are none read as replacement characters."""
    return sys.stdin.buffer.read().decode("utf-8", errors="replace")


def read_text(path: Path) -> str:
    """The text of a file. Raises BadParameter when it cannot be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}.") from None


def _begin_to_map(directory: Path) -> None:
    """What the target needs is read while Python imports the rest. What is wrong with it is said on opening it."""
    from inflight.errors import InflightError
    from inflight.files.json_file import parse_json
    from inflight.runtime.executors.registry import find_loader

    try:
        manifest = parse_json((directory / "manifest.json").read_bytes())
        find_loader(manifest["target"]).read_ahead(directory, manifest)
    except (OSError, ValueError, LookupError, TypeError, InflightError):
        return


def _read_bias(text: str) -> tuple[int, float]:
    token_id, _, value = text.partition("=")
    try:
        return int(token_id), float(value)
    except ValueError:
        raise typer.BadParameter(f"--logit-bias {text}: it must look like 42=-1.5.") from None
