"""`inflight chat`: talk to an engine in the terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inflight.cli.options import sampling as flag

if TYPE_CHECKING:
    from inflight.runtime.offline.llm import LLM
    from inflight.runtime.request.outputs import CompletionOutput, ToolCall
    from inflight.runtime.sampling.params import SamplingParams

_CHAT = "Chat"
_DIM, _PLAIN = "\033[2m", "\033[0m"
HELP = "/reset clears the conversation, /exit or Ctrl-D quits, Ctrl-C stops the current answer."


@flag.sampling_options(chat=True)
def chat(
    *,
    engine: flag.Engine,
    system: Annotated[str | None, typer.Option(help="System message at the start of the conversation.")] = None,
    tools: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSON list of tools, as OpenAI's API takes them. Type what a called tool returns."
        ),
    ] = None,
    reasoning_effort: Annotated[
        str | None, typer.Option(metavar="EFFORT", help="For models that reason: none, low, medium, high.")
    ] = None,
    max_tokens: flag.MaxTokens = 512,
    sampling: dict[str, Any],
    dequantize: flag.Dequantize = False,
    threads: flag.Threads = None,
    kv_cache_tokens: flag.KvCacheTokens = None,
    kv_cache_fraction: flag.KvCacheFraction = 0.9,
) -> None:
    """Chat with the model in the terminal; answers are streamed. Messages can also come from a pipe, one per line.

    In the chat: /reset clears the conversation, /exit or Ctrl-D quits, Ctrl-C stops the current answer. Reasoning is
    dim in a terminal, and left out of a pipe. Where the model calls a tool of --tools, the call is printed, and the
    next line is taken for its result.

    Examples:

      inflight chat engine

      inflight chat engine --system "Answer in one sentence." --temperature 0

      inflight chat engine --tools tools.json --reasoning-effort low

      printf 'Hello\\nAnd now in French\\n' | inflight chat engine
    """
    options = {"tools": _read_tools(tools), "reasoning_effort": reasoning_effort}
    with flag.open_llm(engine, dequantize, threads, kv_cache_tokens, kv_cache_fraction) as llm:
        _check_generates(llm, engine)
        params = flag.read_sampling_params(llm, sampling, max_tokens=max_tokens or 0)
        Conversation(llm, params, system, options).run()


class Conversation:
    """Messages so far, and the loop that adds to them. options: those of LLM.chat."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None, options: dict[str, Any]) -> None:
        self._llm = llm
        self._params = params
        self._options = {name: value for name, value in options.items() if value is not None}
        self._opening: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        self._messages = list(self._opening)
        # Calls of the last answer whose results have not come yet.
        self._calls: list[ToolCall] = []

    def run(self) -> None:
        """Read messages and answer them until the input ends. Raises RequestError at once without a chat template, or
        for tools that are none."""
        self._prompt_tokens([*self._messages, {"role": "user", "content": "Hello"}])
        _note(HELP)
        while (message := _read_message(self._calls[0].name if self._calls else "")) is not None:
            if message == "/exit":
                break
            if message == "/reset":
                self._messages, self._calls = list(self._opening), []
                _note("The conversation starts anew.")
            elif message == "/help":
                _note(HELP)
            elif self._calls:
                self._take_result(message)
            elif message:
                self._answer([*self._messages, {"role": "user", "content": message}])

    def _take_result(self, text: str) -> None:
        call, *rest = self._calls
        told = [*self._messages, {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": text}]
        if rest:
            self._messages, self._calls = told, rest
        else:
            self._answer(told)

    def _prompt_tokens(self, messages: list[dict[str, Any]]) -> int:
        """How many tokens the prompt has. Raises RequestError where there can be none."""
        from inflight.runtime.offline.chat_jobs import ChatOptions, ChatReader

        reader = ChatReader(self._llm.tokenizer, ChatOptions(**self._options))
        return len(reader.job(messages, self._params)[0].token_ids)

    def _answer(self, asked: list[dict[str, Any]]) -> None:
        """Print the answer as it comes. What there is of it joins the conversation, even when it was stopped."""
        from inflight.errors import RequestError
        from inflight.runtime.request.validation import fit_max_tokens

        shown = _Shown()
        try:
            params = fit_max_tokens(self._params, self._prompt_tokens(asked), self._llm.manifest.limits.max_seq_len)
            for output in self._llm.chat(asked, params, stream=True, **self._options):
                shown.update(output.outputs[0])
        except KeyboardInterrupt:
            _note(" [stopped]")
        except RequestError as error:
            print(f"{error}\nThis message was not added; /reset makes room.", file=sys.stderr)
            return
        shown.finish()
        self._messages = [*asked, shown.message]
        self._calls = shown.calls


class _Shown:
    """What of an answer has been printed: content as it comes, calls at the end, reasoning in a terminal alone."""

    def __init__(self) -> None:
        self._lengths = {"reasoning": 0, "content": 0}
        self.message: dict[str, Any] = {"role": "assistant", "content": ""}
        self.calls: list[ToolCall] = []

    def update(self, answer: CompletionOutput) -> None:
        self.message = answer.message
        self.calls = list(answer.tool_calls) if answer.finish_reason == "stop" else []
        for name, printed in self._lengths.items():
            text = getattr(answer, name) or ""
            if new := text[printed:]:
                self._print(new, name == "reasoning")
            self._lengths[name] = len(text)

    def finish(self) -> None:
        if self._lengths["content"] or not self.calls:
            print()
        for call in self.calls:
            print(f"{call.name}({_spelled(call.arguments)})", flush=True)

    def _print(self, text: str, is_reasoning: bool) -> None:
        if not is_reasoning:
            if self._lengths["reasoning"] and not self._lengths["content"] and sys.stdout.isatty():
                print()
            print(text, end="", flush=True)
        elif sys.stdout.isatty():
            print(f"{_DIM}{text}{_PLAIN}", end="", flush=True)


def _spelled(arguments: str) -> str:
    """As keywords; as they are where the model wrote no JSON of an object."""
    try:
        found = json.loads(arguments)
    except ValueError:
        return arguments
    return ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in found.items())


def _read_tools(file: Path | None) -> list[Any] | None:
    if file is None:
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"--tools {file} cannot be read as JSON: {error}.") from None
    if not isinstance(found, list):
        raise typer.BadParameter(f'--tools {file}: it must be a list: [{{"type": "function", "function": ...}}].')
    return found


def _check_generates(llm: LLM, engine: str) -> None:
    """Raises RequestError for an engine that pools, with what can be done with it."""
    from msgspec import UNSET

    from inflight.errors import RequestError

    if llm.manifest.pooling is UNSET:
        return
    what = {
        "embed": ("makes vectors of texts", "v1/embeddings", "embed"),
        "score": ("scores texts", "v1/rerank", "score"),
        "classify": ("classifies texts", "classify", "classify"),
        "token_classify": ("classifies tokens", "pooling", "encode"),
    }
    does, path, method = what[llm.manifest.pooling.task]
    raise RequestError(
        f"{engine} {does} and generates none, so it cannot chat.",
        f"Serve it (inflight serve {engine}, then POST /{path}), or call LLM({engine!r}).{method} in Python.",
    )


def _read_message(tool: str = "") -> str | None:
    """The next line, without spaces around it; None at the end of the input. Ctrl-C gives up a half-typed line. `tool`:
    what was called, whose result it is to be."""
    if not sys.stdin.isatty():
        line = sys.stdin.buffer.readline()
        return line.decode("utf-8", errors="replace").strip() if line else None
    import readline  # noqa: F401 (importing it gives input() editing and history)

    try:
        return input(f"{tool}> ").strip()
    except EOFError:
        print(file=sys.stderr)
        return None
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return ""


def _note(text: str) -> None:
    """To stderr, and only in a terminal: a pipe gets the answers alone."""
    if sys.stdin.isatty():
        print(text, file=sys.stderr)
