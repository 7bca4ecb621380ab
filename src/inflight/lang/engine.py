"""SGLang's offline engine: `sgl.Engine`, with dictionaries for parameters and for answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import SimpleNamespace, TracebackType
from typing import Any

from inflight.errors import EngineError, InflightError, RequestError
from inflight.lang.backends.runtime import Runtime, chosen_token, meta_info, prompt_tokens_of, top_tokens
from inflight.runtime.offline.options import OWN_NAMES, LLMOptions
from inflight.runtime.request.outputs import CompletionOutput, RequestOutput
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams, params_over_defaults

# SGLang's names of what the text must be -> the kinds of structured output.
_STRUCTURES = {"json_schema": "json", "regex": "regex", "ebnf": "grammar", "structural_tag": "structural_tag"}
_MAX_NEW_TOKENS = 128
_NO_PREFIX_CACHE = "no_enable_prefix_caching"
Parameters = Mapping[str, Any]


class Engine:
    """An engine, or a model that is converted and built once, in this process. Safe to use from many threads.

    `names`: flags of sglang.launch_server with underscores, which are honoured, change nothing, or are refused with the
    reason (docs/migration.md); options of a server are refused. `shutdown`, or leaving `with`, frees it.
    """

    def __init__(self, *, threads: int | None = None, **names: Any) -> None:
        from inflight.migration.keywords import read_keywords
        from inflight.migration.sources import SGLANG

        values = read_keywords(names, SGLANG, OWN_NAMES)
        model = values.pop("model", None)
        if model is None:
            raise EngineError("Engine needs a model: Engine(model_path=...).")
        if _NO_PREFIX_CACHE in values:
            values["enable_prefix_caching"] = not values.pop(_NO_PREFIX_CACHE)
        known = OWN_NAMES | {"enable_prefix_caching"}
        if others := [name for name in values if name not in known]:
            raise InflightError(f"Engine has no {others[0]}: it is an option of a server.", "Leave it out.")
        options = LLMOptions(model, None, None, None, None, values)
        directory = options.directory()
        self._runtime = Runtime(directory, threads=threads, kv_cache=options.budget, scheduler=options.config)
        self._files = directory / "tokenizer"

    @property
    def tokenizer_manager(self) -> SimpleNamespace:
        """Has the tokenizer as transformers has it, which is imported here."""
        from transformers import AutoTokenizer

        return SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained(self._files))

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        sampling_params: Parameters | Sequence[Parameters] | None = None,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        *,
        return_logprob: bool = False,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        stream: bool = False,
        **names: Any,
    ) -> Any:
        """A dictionary with text, output_ids and meta_info for one prompt, a list of them for many or for n above 1;
        with `stream` an iterator over such, whose text is the whole one so far, of many prompts with their `index`.

        Raises RequestError for what cannot be served, and for other names that ask for something.
        """
        if asked := [name for name, value in names.items() if value]:
            raise RequestError(f"Engine.generate has no {asked[0]}.", "Models here take text or token ids.")
        given = _as_list(prompt, input_ids)
        is_one = isinstance(prompt, str) or (prompt is None and not isinstance((input_ids or [0])[0], Sequence))
        several = _parameters(sampling_params, len(given))
        if len(several) != len(given):
            raise RequestError(f"There are {len(given)} prompts but {len(several)} sampling_params.")
        scores_prompt = return_logprob and logprob_start_len is not None and logprob_start_len >= 0
        more = {
            "logprobs": (top_logprobs_num or 0) if return_logprob else None,
            "prompt_logprobs": 0 if scores_prompt else None,
            "prompt_logprobs_start": (logprob_start_len or 0) if scores_prompt else 0,
        }
        requests = [
            self._runtime.request_of(self._ids(each), self._params(dict(asked), more))
            for each, asked in zip(given, several, strict=True)
        ]
        if stream:
            return self._stream(requests, top_logprobs_num or 0, is_one)
        found = {output.request_id: output for output in self._runtime.run(requests, stream=False)}
        shown = [
            self._shown(found[request.request_id], completion, top_logprobs_num or 0)
            for request in requests
            for completion in found[request.request_id].outputs
        ]
        return shown[0] if is_one and len(shown) == 1 else shown

    async def async_generate(self, *args: Any, stream: bool = False, **named: Any) -> Any:
        """As `generate`, on a thread; with `stream` an asynchronous iterator, which cancels what is unfinished when it
        is closed."""
        if not stream:
            return await asyncio.to_thread(self.generate, *args, **named)
        return _asynchronously(self.generate(*args, stream=True, **named))

    def shutdown(self) -> None:
        """Free the engine. Calling it twice is harmless."""
        self._runtime.shutdown()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def _ids(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        return tuple(self._runtime.get_tokenizer().encode(prompt) if isinstance(prompt, str) else prompt)

    def _params(self, given: dict[str, Any], more: Parameters) -> SamplingParams:
        """Of a dictionary in SGLang's names, over the defaults of the model's generation_config.json."""
        structure = {kind: given.pop(name) for name, kind in _STRUCTURES.items() if given.get(name) is not None}
        given = {name: value for name, value in given.items() if name not in _STRUCTURES}
        given["max_tokens"] = given.pop("max_new_tokens", _MAX_NEW_TOKENS)
        given["include_stop_str_in_output"] = bool(given.pop("no_stop_trim", False))
        given |= {"structured_outputs": structure} if structure else {}
        return params_over_defaults(self._runtime.manifest.generation.sampling_defaults, {**given, **more})

    def _stream(self, requests: list[Request], num_top: int, is_one: bool) -> Iterator[dict[str, Any]]:
        places = {request.request_id: place for place, request in enumerate(requests)}
        for output in self._runtime.run(requests, stream=True):
            shown = self._shown(output, output.outputs[0], num_top)
            yield shown if is_one else {**shown, "index": places[output.request_id]}

    def _shown(self, output: RequestOutput, completion: CompletionOutput, num_top: int) -> dict[str, Any]:
        meta = meta_info(output, completion, len(completion.token_ids))
        if completion.logprobs is not None:
            pairs = list(zip(completion.token_ids, completion.logprobs, strict=True))
            meta["output_token_logprobs"] = [chosen_token(*pair) for pair in pairs]
            meta["output_top_logprobs"] = [top_tokens(entry, num_top) for _, entry in pairs] if num_top else None
        if output.prompt_logprobs is not None:
            scored = next((at for at, entry in enumerate(output.prompt_logprobs) if entry is not None), 0)
            meta["input_token_logprobs"] = prompt_tokens_of(output, scored, self._runtime.get_tokenizer())
        return {"text": completion.text, "output_ids": list(completion.token_ids), "meta_info": meta}


def _parameters(given: Parameters | Sequence[Parameters] | None, count: int) -> list[Parameters]:
    """For each prompt."""
    if given is None or isinstance(given, Mapping):
        return [given or {}] * count
    return list(given)


def _as_list(prompt: Any, input_ids: Any) -> list[str | Sequence[int]]:
    if (prompt is None) == (input_ids is None):
        raise RequestError("Engine.generate needs a prompt or input_ids, one of them.")
    if prompt is not None:
        return [prompt] if isinstance(prompt, str) else list(prompt)
    return list(input_ids) if input_ids and isinstance(input_ids[0], Sequence) else [input_ids]


async def _asynchronously(items: Iterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """`items`, which another thread waits for."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Any]()
    left = threading.Event()

    def put(item: Any) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def pump() -> None:
        try:
            for item in items:
                put(item)
                if left.is_set():
                    break
            put(None)
        except Exception as error:
            put(error)
        finally:
            items.close()  # type: ignore[attr-defined]  # a generator, which cancels its requests

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        left.set()
