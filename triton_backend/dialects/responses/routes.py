"""POST /v1/responses, and what becomes of responses that are stored."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from inflight.errors import InflightError
from inflight.triton_backend.dialects.asking import chat_body, in_words_of
from inflight.triton_backend.dialects.responses.answer import ResponseAnswer
from inflight.triton_backend.dialects.responses.body import ResponsesBody
from inflight.triton_backend.dialects.responses.conversation import NAMES, chat_fields
from inflight.triton_backend.dialects.responses.items import Item
from inflight.triton_backend.dialects.responses.store import Kept, ResponseStore
from inflight.triton_backend.dialects.turn import Turn
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.answers.prepared import prepare_chat
from inflight.triton_backend.openai.errors import ApiError, Problem, openai_error, problem_of
from inflight.triton_backend.openai.service import Service
from inflight.triton_backend.openai.streaming import SERVER_SENT, Framing, event_lines, respond


def _error_lines(problem: Problem) -> bytes:
    """With the fields of the event and, since the package raises by it, of an error of the API."""
    own = {"code": problem.code, "message": problem.message, "param": problem.param}
    return event_lines({"type": "error", **own, **openai_error(problem)[1]})


FRAMING = Framing(SERVER_SENT, event_lines, _error_lines)


def responses_router(service: Service) -> APIRouter:
    router = APIRouter()
    store = ResponseStore()

    def prepare(body: ResponsesBody, before: list[Item], own: list[Item]) -> ResponseAnswer:
        def keep(response: dict[str, Any]) -> None:
            if body.store and not body.background:
                store.put(Kept(response, own))

        with in_words_of(NAMES):
            chat = chat_body(chat_fields(body, [*before, *own]))
            return ResponseAnswer(Turn(service, chat, prepare_chat(service, chat)), body, keep)

    @router.post("/v1/responses")
    async def create(body: ResponsesBody, request: Request) -> Response:
        service.check_model(body.model)
        _check(body)
        before, own = store.items_until(body.previous_response_id), body.items()
        answer = await service.rendering(lambda: prepare(body, before, own))
        if not body.background:
            return await respond(request, answer, body.stream, FRAMING)
        kept = Kept(answer.response, own)
        kept.task = asyncio.create_task(_run(answer, kept, store))
        store.put(kept)
        return JsonAnswer(kept.response)

    @router.get("/v1/responses/{response_id}")
    async def retrieve(response_id: str, stream: bool = False) -> Response:
        if stream:
            message = "The events of a response are not kept: it can be retrieved whole, or streamed as it is created."
            raise ApiError(400, message, param="stream")
        return JsonAnswer(store.find(response_id).response)

    @router.delete("/v1/responses/{response_id}")
    async def delete(response_id: str) -> dict[str, Any]:
        store.remove(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @router.post("/v1/responses/{response_id}/cancel")
    async def cancel(response_id: str) -> Response:
        kept = store.find(response_id)
        if not kept.response["background"]:
            raise ApiError(400, "Only a response that was created with background: true can be cancelled.")
        if kept.task is not None:
            kept.task.cancel()
            await asyncio.gather(kept.task, return_exceptions=True)
        return JsonAnswer(kept.response)

    @router.get("/v1/responses/{response_id}/input_items")
    async def input_items(
        response_id: str,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> dict[str, Any]:
        kept = store.find(response_id)
        items = [item.listed() for item in (*store.items_until(kept.previous), *kept.items)]
        return _page(items if order == "asc" else items[::-1], limit, after)

    return router


def _check(body: ResponsesBody) -> None:
    if body.background and not body.store:
        raise ApiError(400, "background needs store: the response is fetched later.", param="background")
    if body.background and body.stream:
        message = "A response in the background cannot be streamed; fetch it with GET /v1/responses/ID."
        raise ApiError(400, message, param="background")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options is only allowed with stream: true.", param="stream_options")


async def _run(answer: ResponseAnswer, kept: Kept, store: ResponseStore) -> None:
    """In the background, to its end, an error or its cancellation."""
    try:
        kept.response = await answer.whole()
    except asyncio.CancelledError:
        kept.response = {**kept.response, "status": "cancelled"}
        raise
    except (ApiError, InflightError) as error:
        error_of = {"code": "server_error", "message": problem_of(error, 500).message}
        kept.response = {**kept.response, "status": "failed", "error": error_of}
    finally:
        kept.task = None
        store.refresh(kept)


def _page(items: list[dict[str, Any]], limit: int, after: str | None) -> dict[str, Any]:
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise ApiError(400, f"after is '{after[:100]}', and there is no such item.", param="after")
    start = 0 if after is None else ids.index(after) + 1
    page = items[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": start + limit < len(items),
    }
