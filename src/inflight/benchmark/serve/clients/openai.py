"""OpenAI's streaming endpoints, over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from inflight.benchmark.serve.options import ServeBenchOptions
from inflight.benchmark.serve.requests import Outcome, Prompt
from inflight.errors import InflightError

_ENDPOINTS = {"openai": "/v1/completions", "openai-chat": "/v1/chat/completions"}
_TIMEOUT_S = 6 * 3600
_DATA, _DONE = b"data:", b"[DONE]"
# Bad requests: the address is right, and so is the model.
_REFUSALS = (400, 413, 422)
# What reading an answer of another form than OpenAI's raises.
_OTHER_FORM = (ValueError, LookupError, TypeError, AttributeError)


class OpenAIClient:
    """A Client of /v1/completions, with token ids where they are known, or /v1/chat/completions."""

    def __init__(
        self, options: ServeBenchOptions, model: str, max_seq_len: int | None, session: aiohttp.ClientSession
    ) -> None:
        self._options = options
        self.model = model
        self.max_seq_len = max_seq_len
        self._session = session
        self._is_chat = options.backend == "openai-chat"
        self._url = options.base_url.rstrip("/") + (options.endpoint or _ENDPOINTS[options.backend])

    @classmethod
    async def connect(cls, options: ServeBenchOptions) -> OpenAIClient:
        """Raises InflightError when no server answers."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        try:
            model, max_seq_len = await _find_model(session, options)
        except BaseException:
            await session.close()
            raise
        return cls(options, model, max_seq_len, session)

    async def send(self, prompt: Prompt) -> Outcome:
        body = json.dumps(self._body(prompt)).encode()
        outcome = Outcome(prompt.num_tokens, time.perf_counter())
        try:
            async with self._session.post(
                self._url, data=body, headers={"Content-Type": "application/json"}
            ) as response:
                if response.status != 200:
                    outcome.error = f"HTTP {response.status}: {(await response.text())[:500]}"
                    outcome.refused = response.status in _REFUSALS
                    return outcome
                async for event in _events(response):
                    self._take(outcome, event)
        except (aiohttp.ClientError, OSError, TimeoutError, *_OTHER_FORM) as error:
            outcome.error = f"{type(error).__name__}: {error}"
        if outcome.error is None and not outcome.ttft:
            outcome.error = "The stream had no output."
        elif not outcome.output_tokens:
            # A server that reports no usage: servers send a token at a time while clients keep up.
            outcome.output_tokens = outcome.pieces
        return outcome

    async def close(self) -> None:
        await self._session.close()

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        options = self._options
        if self._is_chat:
            content: dict[str, Any] = {"messages": [{"role": "user", "content": prompt.text}]}
        else:
            content = {"prompt": prompt.text if prompt.token_ids is None else prompt.token_ids}
        return {
            "model": self.model,
            **content,
            "max_tokens": prompt.output_len,
            "temperature": options.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"ignore_eos": True} if options.ignore_eos else {}),
            **options.extra_body,
        }

    def _take(self, outcome: Outcome, event: dict[str, Any]) -> None:
        """One event: a piece of output, the usage at the end, or an error."""
        if "error" in event:
            error = event["error"]
            outcome.error = str(error["message"] if isinstance(error, dict) and "message" in error else error)
            return
        for choice in event.get("choices") or ():
            text = choice["delta"].get("content") if self._is_chat else choice.get("text")
            if text:
                outcome.piece(time.perf_counter())
                outcome.text += text
        if usage := event.get("usage"):
            outcome.output_tokens = usage["completion_tokens"]
            outcome.prompt_len = usage.get("prompt_tokens", outcome.prompt_len)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON of every server-sent event but [DONE]."""
    rest = b""
    async for data in response.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(_DATA) and (event := line[len(_DATA) :].strip()) != _DONE:
                yield json.loads(event)


async def _find_model(session: aiohttp.ClientSession, options: ServeBenchOptions) -> tuple[str, int | None]:
    """The model to ask for, and the most tokens of its sequences where the server says so, as vLLM's does.

    Raises InflightError when none is named and the server names none.
    """
    url = options.base_url.rstrip("/") + "/v1/models"
    try:
        async with session.get(url) as response:
            response.raise_for_status()
            listed = (await response.json())["data"]
        chosen = next((each for each in listed if each["id"] == options.model), listed[0])
        limit = chosen.get("max_model_len")
        return options.model or str(chosen["id"]), limit if type(limit) is int else None
    except (aiohttp.ClientError, OSError, *_OTHER_FORM) as error:
        if options.model is not None:
            return options.model, None
        raise InflightError(
            f"{url} gives no model: {type(error).__name__}: {error}", "Start the server, or correct --base-url."
        ) from error
