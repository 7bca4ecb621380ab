"""`inflight chat`: talk to an engine in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inflight.cli.options import sampling as flag

if TYPE_CHECKING:
    from inflight.runtime.offline.llm import LLM
    from inflight.runtime.sampling.params import SamplingParams

HELP = "/reset clears the conversation, /exit or Ctrl-D quits, Ctrl-C stops the current answer."


@flag.sampling_options(chat=True)
def chat(
    *,
    engine: flag.Engine,
    system: Annotated[str | None, typer.Option(help="System message at the start of the conversation.")] = None,
    max_tokens: flag.MaxTokens = 512,
    sampling: dict[str, Any],
    dequantize: flag.Dequantize = False,
    threads: flag.Threads = None,
    kv_cache_tokens: flag.KvCacheTokens = None,
    kv_cache_fraction: flag.KvCacheFraction = 0.9,
) -> None:
    """Chat with the model in the terminal; answers are streamed. Messages can also come from a pipe, one per line.

    In the chat: /reset clears the conversation, /exit or Ctrl-D quits, Ctrl-C stops the current answer.

    Examples:

      inflight chat engine

      inflight chat engine --system "Answer in one sentence." --temperature 0

      printf 'Hello\\nAnd now in French\\n' | inflight chat engine
    """
    with flag.open_llm(engine, dequantize, threads, kv_cache_tokens, kv_cache_fraction) as llm:
        params = flag.read_sampling_params(llm, sampling, max_tokens=max_tokens or 0)
        Conversation(llm, params, system).run()


class Conversation:
    """Messages so far, and the loop that adds to them."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None) -> None:
        self._llm = llm
        self._params = params
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self._messages = list(self._opening)

    def run(self) -> None:
        """Read messages and answer them until the input ends. Raises RequestError at once without a chat template."""
        self._llm.tokenizer.render_chat([*self._messages, {"role": "user", "content": "Hello"}])
        _note(HELP)
        while (message := _read_message()) is not None:
            if message == "/exit":
                break
            if message == "/reset":
                self._messages = list(self._opening)
                _note("The conversation starts anew.")
            elif message == "/help":
                _note(HELP)
            elif message:
                self._answer(message)

    def _answer(self, message: str) -> None:
        """Print the answer as it comes. What there is of it joins the conversation, even when it was stopped."""
        from inflight.errors import RequestError
        from inflight.runtime.request.validation import fit_max_tokens

        asked = [*self._messages, {"role": "user", "content": message}]
        text = ""
        try:
            prompt = self._llm.tokenizer.encode_chat(asked)
            params = fit_max_tokens(self._params, len(prompt), self._llm.manifest.limits.max_seq_len)
            for output in self._llm.generate(prompt, params, stream=True):
                text = output.outputs[0].text
                print(output.outputs[0].text_delta, end="", flush=True)
        except KeyboardInterrupt:
            _note(" [stopped]")
        except RequestError as error:
            print(f"{error}\nThis message was not added; /reset makes room.", file=sys.stderr)
            return
        print()
        self._messages = [*asked, {"role": "assistant", "content": text}]


def _read_message() -> str | None:
    """The next line, without spaces around it; None at the end of the input. Ctrl-C gives up a half-typed line."""
    if not sys.stdin.isatty():
        line = sys.stdin.buffer.readline()
        return line.decode("utf-8", errors="replace").strip() if line else None
    import readline  # noqa: F401 (importing it gives input() editing and history)

    try:
        return input("> ").strip()
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
