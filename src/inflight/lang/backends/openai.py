"""Any OpenAI-compatible server, with what all of these have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from inflight.errors import InflightError
from inflight.lang.backends.base import Answer, Place, Scores, finish_reason
from inflight.lang.backends.client import open_client, own_errors
from inflight.lang.options import GenOptions
from inflight.lang.roles import Roles

_COMPLETION_MODELS = ("gpt-3.5-turbo-instruct",)


class OpenAI:
    """A backend over the OpenAI API. `client_options` go to openai.OpenAI.

    is_chat_model None: false for OpenAI's own completion model. With a chat model an answer is generated from the
    messages before it, and only at the beginning of a message of the assistant; the state's text shows them as plain
    lines. `select` and return_logprob are refused: RuntimeEndpoint has them of an inflight server. Parameters that
    OpenAI does not have (top_k, regex, ...) are sent where a program asks for them, for the server to honour or refuse.
    """

    def __init__(
        self,
        model_name: str,
        is_chat_model: bool | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        **client_options: Any,
    ) -> None:
        self.model_name = model_name
        self.is_chat_model = model_name not in _COMPLETION_MODELS if is_chat_model is None else is_chat_model
        self._client = open_client(base_url, api_key, **client_options)
        self._url = str(self._client.base_url)
        self.roles = Roles(_plain_lines)

    def generate(self, place: Place, options: GenOptions) -> list[Answer]:
        with own_errors(self._url):
            answer = self._create(place, options)
        usage = answer.usage
        return [
            Answer(
                (choice.message.content if self.is_chat_model else choice.text) or "",
                {
                    "id": answer.id,
                    "prompt_tokens": usage.prompt_tokens,
                    "completion_tokens": usage.completion_tokens,
                    "finish_reason": finish_reason(choice.finish_reason, None, usage.completion_tokens),
                },
            )
            for choice in answer.choices
        ]

    def stream(self, place: Place, options: GenOptions) -> Iterator[Answer]:
        with own_errors(self._url), self._create(place, options, stream=True) as chunks:
            for chunk in chunks:
                for choice in chunk.choices:
                    text = choice.delta.content if self.is_chat_model else choice.text
                    yield Answer(text or "", {"id": chunk.id})

    def score(self, place: Place, choices: Sequence[str], unconditional: bool) -> Scores:
        """Raises InflightError."""
        raise InflightError(
            "The backend OpenAI cannot score options: its API has no log probabilities of them.",
            "Use RuntimeEndpoint(url) for a server of inflight, or Runtime(engine).",
        )

    def cache_prefix(self, place: Place) -> None:
        """Does nothing: what the server caches is its own matter."""

    def shutdown(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _create(self, place: Place, options: GenOptions, stream: bool = False) -> Any:
        if options.return_logprob:
            raise InflightError(
                "The backend OpenAI has no return_logprob.", "Use RuntimeEndpoint(url) or Runtime(engine)."
            )
        body = _body(options)
        if not self.is_chat_model:
            return self._client.completions.create(model=self.model_name, prompt=place.text, stream=stream, **body)
        if place.role != "assistant" or place.content:
            raise InflightError(
                "A chat model generates whole messages: gen must stand at the beginning of one of the assistant.",
                "Write s += assistant(gen(...)), or give OpenAI is_chat_model=False.",
            )
        messages = [dict(message) for message in place.messages]
        # Blanks between messages mean nothing, and contents begin without them.
        if place.text.split() != _plain_lines(messages, True).split():
            raise InflightError(
                "A chat model reads messages alone: text that stands before or between them would be lost.",
                "Append it inside of system, user or assistant, or give OpenAI is_chat_model=False.",
            )
        return self._client.chat.completions.create(model=self.model_name, messages=messages, stream=stream, **body)


def _body(options: GenOptions) -> dict[str, Any]:
    """By OpenAI's names; others in extra_body, and only those that a program gives."""
    params = options.sampling_params()
    stop = list(params.stop)
    body: dict[str, Any] = {"max_tokens": params.max_tokens, "temperature": params.temperature}
    for name in ("n", "top_p", "frequency_penalty", "presence_penalty", "seed"):
        if getattr(options, name) is not None:
            body[name] = getattr(params, name)
    if stop:
        body["stop"] = stop
    names = ("top_k", "min_p", "min_tokens", "stop_token_ids", "ignore_eos")
    extra = {name: value for name in names if (value := getattr(options, name)) is not None}
    outputs = params.structured_outputs
    if outputs is not None and outputs.json is not None:
        schema = {"name": "answer", "schema": json.loads(outputs.value), "strict": True}
        extra["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif outputs is not None:
        extra["regex"] = outputs.value
    return {**body, "extra_body": extra}


def _plain_lines(messages: list[dict[str, Any]], asks: bool) -> str:
    lines = "".join(f"{message['role']}: {message['content']}\n" for message in messages)
    return lines + "assistant: " if asks else lines
