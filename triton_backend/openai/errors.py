"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from inflight.errors import InflightError, OverloadedError, RequestError
from inflight.runtime.sampling.params import SamplingParams
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.http_headers import allowed_methods

# What pydantic adds to the place of a problem: the kind of a union's member, or that it is a key.
_IS_TYPE = re.compile(r"str|int|list\[.*\]|\[key\]")

# As much of a path as a message quotes.
_LONGEST_PATH = 200

OVERLOADED = 429
# A queue moves on with every request that ends, so that soon is not too soon.
RETRY_AFTER_S = "1"


class ApiError(Exception):
    """An error response. `param` names the offending parameter, `code` is for programs."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, param, code)


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """`type` and, for an overload, `code` are those of OpenAI."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    if status == OVERLOADED:
        kind, code = "requests", "rate_limit_exceeded"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def describe(error: Exception) -> dict[str, Any]:
    """The body for an error that ends a stream whose headers have been sent."""
    if isinstance(error, ApiError):
        return error.body
    return error_body(_status_of(error, 500), str(error), _param_of(error))


@contextmanager
def blaming(param: str) -> Iterator[None]:
    """A RequestError in here becomes an ApiError (400) about `param`, unless it names another parameter itself."""
    try:
        yield
    except RequestError as error:
        raise ApiError(400, str(error), param=_param_of(error) or param) from error
    except RecursionError as error:
        raise ApiError(400, f"'{param}' is nested too deeply.", param=param) from error


def add_error_handlers(app: FastAPI) -> None:
    """Make `app` answer every error in OpenAI's shape."""

    async def api_error(request: Request, error: ApiError) -> Response:
        return JsonAnswer(error.body, error.status)

    async def inflight_error(request: Request, error: InflightError) -> Response:
        status = _status_of(error, 503)
        headers = {"Retry-After": RETRY_AFTER_S} if status == OVERLOADED else None
        return JsonAnswer(error_body(status, str(error), _param_of(error)), status, headers)

    async def invalid_body(request: Request, error: RequestValidationError) -> Response:
        message, param, code = _first_problem(error.errors()[0])
        return JsonAnswer(error_body(400, message, param, code), 400)

    async def half_pair(request: Request, error: UnicodeEncodeError) -> Response:
        """pydantic cannot write a message that quotes such a string. Answers always can, so that it is from there."""
        return JsonAnswer(error_body(400, "The body holds half of a surrogate pair, which is no character."), 400)

    async def defect(request: Request, error: Exception) -> Response:
        return JsonAnswer(error_body(500, f"The server failed: {error!r}. Its log says more."), 500)

    async def http_error(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = allowed_methods(headers.get("Allow", ""))
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
        message = _why_unreadable(error.__cause__) or _what_is_there(request, error, headers) or str(error.detail)
        return JsonAnswer(error_body(error.status_code, message), error.status_code, headers)

    app.exception_handler(ApiError)(api_error)
    app.exception_handler(InflightError)(inflight_error)
    app.exception_handler(RequestValidationError)(invalid_body)
    app.exception_handler(HTTPException)(http_error)
    app.exception_handler(UnicodeEncodeError)(half_pair)
    app.exception_handler(Exception)(defect)


def _status_of(error: Exception, otherwise: int) -> int:
    statuses: Mapping[type[Exception], int] = {RequestError: 400, OverloadedError: OVERLOADED}
    return statuses.get(type(error), otherwise)


def _why_unreadable(cause: BaseException | None) -> str | None:
    """What kept the parser from reading a body; None for another cause."""
    if isinstance(cause, UnicodeError):
        return "The body is no valid JSON: it is not in UTF-8."
    if isinstance(cause, RecursionError):
        return "The body is nested too deeply."
    if "set_int_max_str_digits" in str(cause):
        return f"The body is no valid JSON: a number in it has more than {sys.get_int_max_str_digits()} digits."
    return f"The body is no valid JSON: {cause}." if isinstance(cause, ValueError) else None


def _what_is_there(request: Request, error: HTTPException, headers: Mapping[str, str]) -> str | None:
    """For a path or a method that the server does not have; None for another error."""
    path = request.url.path
    shown = path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}..."
    if error.status_code == 405:
        return f"{request.method} is not for {shown}, which takes {headers['Allow']}."
    if error.status_code != 404:
        return None
    near = next((each for each in (f"/v1{path}", path.removeprefix("/v1")) if _is_there(request, each)), None)
    return f"This server has no {shown}." + (f" Did you mean {near}?" if near else "")


def _is_there(request: Request, path: str) -> bool:
    scope = {**request.scope, "path": path, "raw_path": path.encode(errors="replace")}
    return path != request.url.path and any(route.matches(scope)[0] is not Match.NONE for route in request.app.routes)


def _param_of(error: Exception) -> str | None:
    """Messages about a sampling parameter begin with its name."""
    name = str(error).partition(" ")[0]
    return name if name in SamplingParams.__dataclass_fields__ else None


def _first_problem(problem: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """Message, param and code of a pydantic problem."""
    where = [str(part) for part in problem["loc"] if part != "body" and not _IS_TYPE.fullmatch(str(part))]
    param = ".".join(where) or None
    if param is None and problem["type"] in ("missing", "model_attributes_type", "model_type", "dict_type"):
        return "The body must be a JSON object, with Content-Type: application/json.", None, None
    if problem["type"] == "extra_forbidden":
        return f"Unknown parameter: '{param}'.", param, "unknown_parameter"
    if problem["type"] == "json_invalid":
        return f"The body is no valid JSON: {problem['ctx']['error']}.", None, None
    if problem["type"] == "missing":
        return f"Missing required parameter: '{param}'.", param, "missing_required_parameter"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return (f"'{param}': {message}" if param else message), param, None
