"""An inflight server, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from inflight.errors import EngineError, InflightError, RequestError
from inflight.lang.backends.base import Answer, Place, Scores, finish_reason, first_difference, make_scores, spelled
from inflight.lang.backends.client import open_client, own_errors
from inflight.lang.choices import TokenLogprob
from inflight.lang.options import GenOptions
from inflight.lang.roles import Roles
from inflight.runtime.request.validation import fit_max_tokens, total_room
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.chat.chat_template import ChatTemplate
from inflight.sampling_parameters import SAMPLING_PARAMETERS


class RuntimeEndpoint:
    """A backend over `inflight serve`, in either mode.

    base_url: with or without /v1. The server tokenizes; the chat template is its model's. Raises InflightError when the
    server cannot be reached, or is another one.
    """

    def __init__(self, base_url: str, api_key: str | None = None, **client_options: Any) -> None:
        self._root = base_url.rstrip("/").removesuffix("/v1")
        self._client = open_client(f"{self._root}/v1", api_key or "none", **client_options)
        self.model_name, self._most_tokens = self._find_model()

    @cached_property
    def roles(self) -> Roles:
        with own_errors(self._root):
            info = self._get("/tokenizer_info")
        source = info.get("chat_template")
        special = {name: value for name, value in info.items() if name.endswith("_token") and value is not None}
        template = None if source is None else ChatTemplate({"default": source})

        def render(messages: list[dict[str, Any]], asks: bool) -> str:
            if template is None:
                raise RequestError(
                    f"The model of {self._root} has no chat template, so it has no roles.", "Write the prompt as text."
                )
            return template.render(messages, add_generation_prompt=asks, variables=special)

        return Roles(render)

    def generate(self, place: Place, options: GenOptions) -> list[Answer]:
        with own_errors(self._root):
            answer = self._complete(**self._body(place, options)).model_dump()
        return [self._answer(answer, choice, options) for choice in answer["choices"]]

    def stream(self, place: Place, options: GenOptions) -> Iterator[Answer]:
        body = self._body(place, options)
        with own_errors(self._root), self._complete(**body, stream=True, stream_options=_USAGE) as chunks:
            whole: dict[str, Any] = {"text": "", "token_ids": [], "logprobs": None}
            last: dict[str, Any] | None = None
            for chunk in chunks:
                found = chunk.model_dump()
                # A proxy may take the usage out of chunks, and an answer be cut off before it.
                if found.get("usage") is None:
                    found["usage"] = None if last is None else last["usage"]
                last = found
                for choice in found["choices"]:
                    _join(whole, choice)
                    yield self._answer(found, {**whole, "text": choice["text"]}, options)
            if last is None or last["usage"] is None:
                raise EngineError(f"The server at {self._root} ended the stream without its usage.")
            yield self._answer(last, {**whole, "text": ""}, options)

    def score(self, place: Place, choices: Sequence[str], unconditional: bool) -> Scores:
        before = self._encode(place, "")
        prompts = [self._encode(place, choice) for choice in choices]
        start = first_difference(before, prompts)
        self._compute(before[:start])
        tokens = self._scored(prompts, start)
        alone = self._scored([prompt[start:] for prompt in prompts], 0) if unconditional else None
        return make_scores(choices, start, tokens, alone)

    def cache_prefix(self, place: Place) -> None:
        self._compute(self._encode(place, ""))

    def shutdown(self) -> None:
        """Closes the connections; the server runs on."""
        self._client.close()

    def _find_model(self) -> tuple[str, int]:
        """The name of the one model, and the most tokens of a sequence. Raises InflightError for other servers."""
        try:
            with own_errors(self._root):
                (model,) = self._get("/v1/models")["data"]
            return str(model["id"]), int(model["max_model_len"])
        except (KeyError, TypeError, ValueError):
            raise InflightError(
                f"{self._root} is no server of inflight: its /v1/models does not have one model with a max_model_len.",
                "For another server with OpenAI's API use OpenAI(model, base_url=...).",
            ) from None

    def _get(self, path: str) -> dict[str, Any]:
        return dict(self._client.get(f"{self._root}{path}", cast_to=object))

    def _encode(self, place: Place, more: str) -> list[int]:
        """The tokens of the whole text, and of `more` behind it."""
        body = {"prompt": place.text + more, "add_special_tokens": not place.is_chat}
        with own_errors(self._root):
            return list(self._client.post(f"{self._root}/tokenize", body=body, cast_to=object)["tokens"])

    def _body(self, place: Place, options: GenOptions) -> dict[str, Any]:
        ids, params = self._encode(place, ""), options.sampling_params()
        return _body(ids, fit_max_tokens(params, len(ids), total_room(params, self._most_tokens)))

    def _complete(self, *, extra_body: Mapping[str, Any], stream: bool = False, **body: Any) -> Any:
        # What the package has no name for is in the extra body; it takes what it is given there as it is.
        return self._client.completions.create(model=self.model_name, stream=stream, **body, extra_body=extra_body)

    def _compute(self, ids: Sequence[int]) -> None:
        if len(ids) > 1:
            with own_errors(self._root):
                self._complete(prompt=list(ids), max_tokens=1, temperature=0, extra_body={})

    def _scored(self, prompts: Sequence[Sequence[int]], start: int) -> list[list[TokenLogprob]]:
        """The tokens of each of `prompts` from `start` on, in one request."""
        extra = {"prompt_logprobs_start": start}
        asked: dict[str, Any] = {"max_tokens": 0, "echo": True, "logprobs": 0, "temperature": 0}
        with own_errors(self._root):
            answer = self._complete(prompt=[list(prompt) for prompt in prompts], **asked, extra_body=extra)
        found = [choice["logprobs"] for choice in answer.model_dump()["choices"]]
        return [
            list(zip(each["token_logprobs"][start:], prompt[start:], each["tokens"][start:], strict=True))
            for prompt, each in zip(prompts, found, strict=True)
        ]

    def _answer(self, answer: Mapping[str, Any], choice: Mapping[str, Any], options: GenOptions) -> Answer:
        usage = answer["usage"] or {"prompt_tokens": None, "prompt_tokens_details": {"cached_tokens": None}}
        count = 0 if options.shows_nothing else len(choice["token_ids"])
        meta: dict[str, Any] = {
            "id": answer["id"],
            "prompt_tokens": usage["prompt_tokens"],
            "completion_tokens": count,
            "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
            "finish_reason": finish_reason(choice.get("finish_reason"), choice.get("stop_reason"), count),
        }
        if choice.get("logprobs") is not None and options.return_logprob:
            meta |= _logprobs(choice, options)
        return Answer("" if options.shows_nothing else choice["text"], meta)


_USAGE = {"include_usage": True, "continuous_usage_stats": True}


def _body(ids: Sequence[int], params: SamplingParams) -> dict[str, Any]:
    """All that `params` has, so that none of the model's own defaults counts."""
    extra = {
        row.name: list(value) if isinstance(value, tuple) else value
        for row in SAMPLING_PARAMETERS
        if row.openai and (value := getattr(params, row.name)) is not None and row.kind != "bias"
    }
    outputs = params.structured_outputs
    if outputs is not None:
        value = list(outputs.choice) if outputs.choice is not None else outputs.value
        extra["structured_outputs"] = {outputs.kind: value}
    if params.prompt_logprobs is not None:
        extra["prompt_logprobs"] = params.prompt_logprobs
    extra["return_token_ids"] = True
    body = {"prompt": list(ids), "max_tokens": params.max_tokens, "extra_body": extra}
    return body if params.logprobs is None else {**body, "logprobs": params.logprobs}


def _join(whole: dict[str, Any], choice: Mapping[str, Any]) -> None:
    """Add a chunk of a choice to what came before it."""
    whole["token_ids"] += choice.get("token_ids") or []
    logprobs = choice.get("logprobs")
    if logprobs is not None:
        before = whole["logprobs"] or {}
        whole["logprobs"] = {name: before.get(name, []) + values for name, values in logprobs.items()}
    whole |= {name: choice.get(name) for name in ("finish_reason", "stop_reason")}


def _logprobs(choice: Mapping[str, Any], options: GenOptions) -> dict[str, Any]:
    """The API gives the likeliest tokens by their texts, so that these have no ids."""
    found = choice["logprobs"]
    chosen = list(zip(found["token_logprobs"], choice["token_ids"], found["tokens"], strict=True))
    meta: dict[str, Any] = {"output_token_logprobs": [spelled(options, each) for each in chosen]}
    if options.num_top:
        tops = [sorted(top.items(), key=lambda item: -item[1])[: options.num_top] for top in found["top_logprobs"]]
        meta["output_top_logprobs"] = [[spelled(options, (value, None, text)) for text, value in top] for top in tops]
    if options.scores_prompt:
        start = options.logprob_start_len or 0
        pairs = list(zip(choice["prompt_token_ids"], choice["prompt_logprobs"], strict=True))[start:]
        meta["input_token_logprobs"] = [spelled(options, _prompt_token(*pair)) for pair in pairs]
    return meta


def _prompt_token(token_id: int, entries: Mapping[str, Any] | None) -> TokenLogprob:
    if entries is None:
        return None, token_id, None
    entry = entries[str(token_id)]
    return entry["logprob"], token_id, entry["decoded_token"]
