"""Bodies that no client should send, drawn anew each run: good ones with something wrong in one or more places."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MESSAGE = {"role": "user", "content": [{"type": "text", "text": "fox"}], "name": "me"}
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "tiny",
        "messages": [MESSAGE, {"role": "assistant", "content": "dog", "refusal": None, "annotations": []}, MESSAGE],
        "max_tokens": 2,
        "temperature": 0.5,
        "seed": 5,
        "n": 1,
        "logprobs": True,
        "top_logprobs": 1,
        "stop": ["x"],
        "stream": False,
        "logit_bias": {"40": -1.5},
        "chat_template_kwargs": {"enable_thinking": False},
        "documents": [{"title": "a", "text": "b"}],
        "metadata": {"a": "b"},
        "response_format": {"type": "text"},
    },
    "/v1/completions": {
        "model": "tiny",
        "prompt": "fox",
        "max_tokens": 2,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "presence_penalty": 0.5,
        "repetition_penalty": 1.1,
        "seed": 1,
        "echo": True,
        "logprobs": 1,
        "stop_token_ids": [50],
        "bad_words": ["dog"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "priority": 0,
        "user": "me",
        "prompt_logprobs": None,
        "truncate_prompt_tokens": 5,
    },
    "/tokenize": {"prompt": "fox", "add_special_tokens": True, "return_token_strs": True},
    "/detokenize": {"tokens": [40, 41, 42]},
}
PATHS = (
    *GOOD,
    "/",
    "/api/tags",
    "/api/pull",
    "/info",
    "/v1/responses/x",
    "/v1/responses/x/cancel",
    "/v1/models",
    "/v1/models/x",
    "/health",
    "/nowhere",
    "/v1//completions",
    "/v1/%ff",
    "/openapi.json",
)
METHODS = ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "POST")
CONTENT_TYPES = ("text/plain", "application/xml", "multipart/form-data", "application/json; charset=latin-1", "", "/;=")


@dataclass(frozen=True)
class Call:
    """One request. `length` of the text "deep" and the like stays out of messages: see `short`."""

    method: str
    path: str
    body: bytes
    content_type: str = "application/json"

    def short(self) -> str:
        return f"{self.method} {self.path} ({self.content_type!r}) {self.body[:600]!r} of {len(self.body)} bytes"


class Raw(str):
    """JSON text that stands as it is, where Python has no value for it."""


def _deep(random_: random.Random) -> Raw:
    depth = random_.choice((3, 100, 900, 10_000, 100_000))
    opening, closing = random_.choice((("[", "]"), ('{"a":', "}")))
    return Raw(opening * depth + "1" + closing * depth)


def _value(random_: random.Random) -> Any:
    """Any value: the odd ones of JSON, and of what Python's parser takes beside it."""
    draws: list[Callable[[], Any]] = [
        lambda: random_.choice((None, True, False, 0, 1, -1, 2, 0.0, -0.0, 0.5, "", "fox", [], {})),
        lambda: random_.choice((10**9, 2**31, 2**63, -(2**63) - 1, 2**64, 10**30, 1e-300, 1e300, 5e-324, -1e38)),
        lambda: Raw(random_.choice(("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1E-999", "9" * 5000, "-0"))),
        lambda: Raw(random_.choice(('"\\ud800"', '"\\udc00 fox"', '"\\u0000"', '"a\\ud83d"', '"\\uffff"'))),
        lambda: "🎉東" * random_.choice((1, 5, 2000)),
        lambda: random_.choice(("0.5", "true", "null", "1", "text", "auto", "none", "{{ 7 }}", "{% raise %}", "\x00")),
        lambda: [_value(random_) for _ in range(random_.randint(1, 3))],
        lambda: {random_.choice(("a", "type", "role", "", "0")): _value(random_)},
        lambda: [random_.randint(-3, 300)] * random_.choice((1, 50)),
        lambda: _deep(random_),
    ]
    return random_.choice(draws)()


def _same_kind(value: Any, random_: random.Random) -> Any:
    """A value of the type of `value`, so that it comes further than the check of types."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return random_.choice((0, 1, 2, -1, 7, 2**31 - 1, 2**31, 2**63, 10**30, 0.5, 1.0, -1e38, 1e300, 1e-46, 1e-300))
    if isinstance(value, str):
        return random_.choice(("", "\ud800", "\x00", "a fox " * 300, "🎉", "<s></s>", "{{ 1 / 0 }}"))
    return random_.choice(([*value, *value] * 9, [])) if isinstance(value, list) else {}


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside."""
    if not isinstance(value, dict | list):
        return []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    here: list[tuple[Any, Any]] = []
    for key, inner in items:
        here += [(value, key), *_places(inner)]
    return here


def _spell(value: Any, random_: random.Random) -> str:
    """As JSON, keys now and then twice."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(_spell(each, random_) for each in value) + "]"
    if isinstance(value, dict):
        members = [f"{json.dumps(key)}:{_spell(each, random_)}" for key, each in value.items()]
        if members and random_.random() < 0.05:
            members.append(random_.choice(members))
        return "{" + ",".join(members) + "}"
    return json.dumps(value, ensure_ascii=random_.random() < 0.5)


def _mutated_body(good: Any, random_: random.Random, names: Sequence[str]) -> bytes:
    body = copy.deepcopy(good)
    for _ in range(random_.choice((1, 1, 1, 2, 4))):
        container, key = random_.choice(_places(body))
        kind = random_.random()
        if kind < 0.15:
            del container[key]
        elif kind < 0.3 and isinstance(container, dict):
            container[random_.choice((*names, "\ud800", "", "unknown"))] = _value(random_)
        elif kind < 0.6:
            container[key] = _same_kind(container[key], random_)
        else:
            container[key] = _value(random_)
        if not _places(body):
            break
    if random_.random() < 0.03:
        body = _value(random_)
    return _spell(body, random_).encode("utf-8", "surrogatepass")


def _broken(body: bytes, random_: random.Random) -> bytes:
    """Bytes that are hardly JSON."""
    place = random_.randrange(len(body) + 1)
    kinds: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: body[:place],
        lambda: body[:place] + random_.randbytes(3) + body[place:],
        lambda: body[:place] + b"\xff\xfe\x80" + body[place:],
        lambda: body.decode("utf-8", "replace").encode("utf-16"),
        lambda: b"\xef\xbb\xbf" + body,
        lambda: body + b"}",
        lambda: b"a=b&c=d",
    ]
    return random_.choice(kinds)()


def draw(random_: random.Random, names: Sequence[str], good: Mapping[str, Any] = GOOD) -> Call:
    """One call; `names` are keys that bodies may have, `good` a body of each path. What it may generate is little: it
    has no way to ask for much, but by leaving max_tokens out, so that it always has one."""
    path = random_.choices(list(good), (5, 5, 1, 1) if good is GOOD else None)[0]
    body = _mutated_body(good[path], random_, names)
    kind = random_.random()
    if kind < 0.1:
        return Call("POST", path, _broken(body, random_))
    if kind < 0.15:
        return Call("POST", path, body, random_.choice(CONTENT_TYPES))
    if kind < 0.2:
        return Call(random_.choice(METHODS), random_.choice(PATHS), body)
    return Call("POST", path, body)
