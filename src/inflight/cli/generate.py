"""`inflight generate`: complete prompts with an engine."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inflight.cli import sampling_options as flag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inflight.runtime.offline.llm import LLM
    from inflight.runtime.request.outputs import RequestOutput

DEFAULT_MAX_TOKENS = 256


def generate(
    engine: flag.Engine,
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT...", help='Prompts to complete; "-" reads standard input.')
    ],
    max_tokens: flag.MaxTokens = None,
    n: Annotated[int, typer.Option("--n", help="Number of completions per prompt.")] = 1,
    best_of: Annotated[int | None, typer.Option(help="Completions to compute; the n likeliest are kept.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print text while it is generated.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per prompt.")] = False,
    as_chat: Annotated[bool, typer.Option("--chat", help="Apply the model's chat template to the prompt.")] = False,
    logprobs: Annotated[
        int | None, typer.Option(help="With --json: log probabilities of each token and N others.")
    ] = None,
    prompt_logprobs: Annotated[int | None, typer.Option(help="With --json: the same for prompt tokens.")] = None,
    temperature: flag.Temperature = None,
    top_k: flag.TopK = None,
    top_p: flag.TopP = None,
    min_p: flag.MinP = None,
    repetition_penalty: flag.RepetitionPenalty = None,
    presence_penalty: flag.PresencePenalty = None,
    frequency_penalty: flag.FrequencyPenalty = None,
    seed: flag.Seed = None,
    bad_words: flag.BadWords = None,
    logit_bias: flag.LogitBias = None,
    min_tokens: flag.MinTokens = None,
    stop: flag.Stop = None,
    stop_token_ids: flag.StopTokenIds = None,
    include_stop: flag.IncludeStop = False,
    ignore_eos: flag.IgnoreEos = False,
    keep_special_tokens: flag.KeepSpecialTokens = False,
    threads: flag.Threads = None,
    kv_cache_tokens: flag.KvCacheTokens = None,
    kv_cache_fraction: flag.KvCacheFraction = 0.9,
) -> None:
    """Complete one prompt, or several in one batch. Text goes to standard output, the speed to standard error.

    Sampling flags that are not given take their defaults from the model's generation_config.json. --max-tokens defaults
    to 256, or to what fits into max_seq_len.

    Examples:

      inflight generate engine "The capital of France is" --max-tokens 20

      cat notes.txt | inflight generate engine - --chat --stream

      inflight generate engine "Once" "Twice" --n 2 --temperature 0.8 --seed 7 --json
    """
    if stream and (as_json or len(prompts) > 1 or n > 1):
        raise typer.BadParameter("--stream prints one completion of one prompt, as text.")
    texts = [flag.read_stdin() if prompt == "-" else prompt for prompt in prompts]
    with flag.open_llm(engine, threads, kv_cache_tokens, kv_cache_fraction) as llm:
        params = flag.read_sampling_params(
            llm,
            max_tokens=DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
            n=n,
            best_of=best_of,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            seed=seed,
            bad_words=bad_words,
            logit_bias=logit_bias,
            min_tokens=min_tokens,
            stop=stop,
            stop_token_ids=stop_token_ids,
            include_stop_str_in_output=include_stop,
            ignore_eos=ignore_eos,
            skip_special_tokens=not keep_special_tokens,
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
        del completion["text_delta"]
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
