"""What a server of several models says of all of them: lists, health, metrics."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.samples import Sample
from starlette.types import ASGIApp, Message, Scope

from inflight.triton_backend.models.catalogue import Catalogue

# Path -> the key under which its answer has a list of models.
LISTS = {"/v1/models": "data", "/v1/models/": "data", "/api/tags": "models", "/api/ps": "models"}
HEALTH = ("/health", "/health/ready", "/ping")


async def joined_list(catalogue: Catalogue, scope: Scope) -> dict[str, Any]:
    """The answers of all loaded models to a request for their list, as one."""
    key = LISTS[scope["path"]]
    answers = [json.loads(body) for _, body in await _ask_all(catalogue, scope)]
    joined: dict[str, Any] = {**(answers[0] if answers else {"object": "list"})}
    joined[key] = [model for answer in answers for model in answer[key]]
    if "first_id" in joined:
        joined |= {"first_id": joined[key][0]["id"], "last_id": joined[key][-1]["id"]}
    return joined


async def problems(catalogue: Catalogue) -> list[str]:
    """What ails each model that is loaded."""
    found = []
    for entry in catalogue.ready:
        assert entry.service is not None
        problem = await entry.service.backend.problem()
        found += [] if problem is None else [f"{entry.model.name}: {problem}"]
    return found


def index(catalogue: Catalogue) -> list[dict[str, str]]:
    """As the index of Triton's repository has it."""
    return [
        {"name": name, "version": "1", "state": entry.state, "reason": entry.why}
        for name, entry in catalogue.entries.items()
    ]


def metrics_text(catalogue: Catalogue) -> bytes:
    """The metrics of all loaded models, each with its name as the label `model`."""
    return generate_latest(_Labelled(catalogue))


class _Labelled:
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for entry in self._catalogue.ready:
            assert entry.service is not None
            for metric in entry.service.metrics.collect():
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                family.samples += _with_label(metric.samples, entry.model.name)
        yield from families.values()


def _with_label(samples: Iterable[Sample], name: str) -> Iterator[Sample]:
    for sample in samples:
        yield sample._replace(labels={"model": name, **sample.labels})


async def _ask_all(catalogue: Catalogue, scope: Scope) -> list[tuple[int, bytes]]:
    return [await answer_of(entry.app, scope) for entry in catalogue.ready if entry.app is not None]


async def answer_of(app: ASGIApp, scope: Scope) -> tuple[int, bytes]:
    """Status and body of what `app` answers to a request without a body."""
    status, parts = 0, []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    await app({**scope}, receive, send)
    return status, b"".join(parts)
