"""`inflight generate`: complete prompts with an engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inflight.cli.options import sampling as flag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inflight.runtime.offline.llm import LLM
    from inflight.runtime.request.outputs import RequestOutput

DEFAULT_MAX_TOKENS = 256
_STRUCTURE = "Structured output"


@flag.sampling_options()
def generate(
    *,
    engine: flag.Engine,
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT...", help='Prompts to complete; "-" reads standard input.')
    ],
    max_tokens: flag.MaxTokens = None,
    n: Annotated[int, typer.Option("--n", help="Number of completions per prompt.")] = 1,
    stream: Annotated[bool, typer.Option("--stream", help="Print text while it is generated.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per prompt.")] = False,
    as_chat: Annotated[bool, typer.Option("--chat", help="Apply the model's chat template to the prompt.")] = False,
    sampling: dict[str, Any],
    json_schema: Annotated[
        str | None,
        typer.Option(metavar="FILE|JSON", help="JSON schema that the text is to meet.", rich_help_panel=_STRUCTURE),
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="Regular expression that the text is to match.", rich_help_panel=_STRUCTURE)
    ] = None,
    grammar: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Grammar of the text, in Lark's syntax or GBNF.", rich_help_panel=_STRUCTURE),
    ] = None,
    dequantize: flag.Dequantize = False,
    threads: flag.Threads = None,
    kv_cache_tokens: flag.KvCacheTokens = None,
    kv_cache_fraction: flag.KvCacheFraction = 0.9,
    kv_offload_dir: flag.KvOffloadDir = None,
    kv_offload_bytes: flag.KvOffloadBytes = None,
) -> None:
    """Complete one prompt, or several in one batch. Text goes to standard output, the speed to standard error.

    Sampling flags that are not given take their defaults from the model's generation_config.json. --max-tokens defaults
    to 256, or to what fits into max_seq_len.

    Examples:

      inflight generate engine "The capital of France is" --max-tokens 20

      cat notes.txt | inflight generate engine - --chat --stream

      inflight generate engine "An example user:" --json-schema user.schema.json --max-tokens 200

      inflight generate engine "Once" "Twice" --n 2 --temperature 0.8 --seed 7 --json
    """
    if stream and (as_json or len(prompts) > 1 or n > 1):
        raise typer.BadParameter("--stream prints one completion of one prompt, as text.")
    structure = _read_structure(json_schema, regex, grammar)
    texts = [flag.read_stdin() if prompt == "-" else prompt for prompt in prompts]
    offload: dict[str, Any] = {"kv_offload_dir": kv_offload_dir, "kv_offload_bytes": kv_offload_bytes}
    with flag.open_llm(engine, dequantize, threads, kv_cache_tokens, kv_cache_fraction, **offload) as llm:
        params = flag.read_sampling_params(
            llm,
            sampling | structure,
            max_tokens=DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
            n=n,
        )
        prompts_read = [_read_prompt(llm, text, as_chat) for text in texts]
        if max_tokens is None:
            from inflight.runtime.request.validation import fit_max_tokens

            total = llm.manifest.limits.max_seq_len
            each = [fit_max_tokens(params, len(prompt["prompt_token_ids"]), total) for prompt in prompts_read]
        else:
            each = [params] * len(prompts_read)
        if stream:
            outputs = [_print_stream(llm.generate(prompts_read, each, stream=True))]
        else:
            outputs = llm.generate(prompts_read, each)
            _print_whole(outputs, as_json)
    _print_speed(outputs)


def _read_structure(json_schema: str | None, regex: str | None, grammar: str | None) -> dict[str, Any]:
    """The parameter that the three options make. A schema that begins with { is itself; anything else is a file."""
    values = {"json": json_schema, "regex": regex, "grammar": grammar}
    given = {name: value for name, value in values.items() if value is not None}
    if len(given) > 1:
        raise typer.BadParameter("--json-schema, --regex and --grammar exclude each other.")
    for name, value in given.items():
        if name == "grammar" or (name == "json" and not value.lstrip().startswith("{")):
            given[name] = flag.read_text(Path(value))
    return {"structured_outputs": given} if given else {}


def _read_prompt(llm: LLM, text: str, as_chat: bool) -> dict[str, Any]:
    """The prompt in the form that keeps both its text and its token ids."""
    if not as_chat:
        return {"prompt": text, "prompt_token_ids": llm.tokenizer.encode(text)}
    rendered = llm.tokenizer.render_chat([{"role": "user", "content": text}])
    return {"prompt": rendered, "prompt_token_ids": llm.tokenizer.encode(rendered, add_special_tokens=False)}


def _print_stream(outputs: Iterator[RequestOutput]) -> RequestOutput:
    """Print text as it comes; the last output, which is whole."""
    for output in outputs:
        print(output.outputs[0].text_delta, end="", flush=True)
    print()
    return output


def _print_whole(outputs: list[RequestOutput], as_json: bool) -> None:
    several = sum(len(output.outputs) for output in outputs) > 1
    for number, output in enumerate(outputs):
        if as_json:
            print(json.dumps(_as_json(output), ensure_ascii=False))
            continue
        for completion in output.outputs:
            if several:
                print(f"--- prompt {number}, completion {completion.index} ---")
            print(completion.text)


def _as_json(output: RequestOutput) -> dict[str, Any]:
    from dataclasses import asdict

    values = asdict(output)
    for completion in values["outputs"]:
        for name in ("text_delta", "content", "reasoning", "tool_calls"):
            del completion[name]
    return {name: value for name, value in values.items() if name not in ("request_id", "finished")}


def _print_speed(outputs: list[RequestOutput]) -> None:
    """Tokens per second from the first request's start to the last token; time to first token, the worst."""
    metrics = [output.metrics for output in outputs if output.metrics is not None]
    if not metrics:
        return
    tokens = sum(each.output_tokens for each in metrics)
    seconds = (max(each.last_token_ns for each in metrics) - min(each.arrival_ns for each in metrics)) / 1e9
    first = max(each.first_token_ns - each.arrival_ns for each in metrics) / 1e6
    prompt = sum(each.prompt_tokens for each in metrics)
    rate = tokens / seconds if seconds > 0 else 0.0
    print(
        f"{prompt} prompt tokens, {tokens} new tokens, {rate:.1f} tokens/s, first token after {first:.1f} ms",
        file=sys.stderr,
    )
