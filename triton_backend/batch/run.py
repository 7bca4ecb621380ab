"""Sends the requests of a batch through the API's application, so many at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
from fastapi import FastAPI

from inflight.progress import Advance
from inflight.triton_backend.batch.lines import BatchLine
from inflight.triton_backend.batch.results import Results
from inflight.triton_backend.openai.http_headers import REQUEST_ID


async def run_batch(app: FastAPI, lines: Sequence[BatchLine], results: Results, most: int, advance: Advance) -> None:
    """Answer what `results` has no answer to yet; `most` requests run at a time. A line that is no request, or that the
    API refuses, has an answer that says so, and the others go on."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    todo = iter([line for line in lines if line.custom_id not in results.answered or line.problem is not None])
    async with httpx.AsyncClient(transport=transport, base_url="http://batch", timeout=None) as client:
        await asyncio.gather(*(_work(client, todo, results, advance) for _ in range(most)))


async def _work(client: httpx.AsyncClient, todo: Iterator[BatchLine], results: Results, advance: Advance) -> None:
    for line in todo:
        if line.problem is not None:
            results.add_error(line.custom_id, "invalid_request", f"Line {line.number}: {line.problem}.")
        else:
            await _send(client, line, results)
        advance(1)


async def _send(client: httpx.AsyncClient, line: BatchLine, results: Results) -> None:
    try:
        answer = await client.post(line.url, content=_encoded(line.body), headers={"Content-Type": "application/json"})
    except (httpx.InvalidURL, UnicodeError) as error:
        results.add_error(line.custom_id, "invalid_request", f"Line {line.number}: it cannot be sent: {error}.")
        return
    assert line.custom_id is not None, "a request has one"
    results.add_answer(line.custom_id, answer.status_code, answer.headers.get(REQUEST_ID, ""), _body(answer))


def _encoded(body: Any) -> bytes:
    """As it was read: numbers that JSON has no spelling for, and half a surrogate pair, are the API's to refuse."""
    return json.dumps(body).encode()


def _body(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text
