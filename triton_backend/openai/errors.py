"""What went wrong with a request, and OpenAI's shape of it: {"error": {"message", "type", "param", "code"}}.

Every dialect of the API has a shape of its own, by the path of the request.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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

# Names that are arguments of a client and no keys of a body.
_HINTS: Mapping[str, str] = {
    "extra_body": " It is an argument of the openai package; in JSON, what is in it stands beside the other keys.",
    "extra_headers": " It is an argument of the openai package; headers are no part of the body.",
}

OVERLOADED = 429
# A queue moves on with every request that ends, so that soon is not too soon.
RETRY_AFTER_S = "1"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, with OpenAI's status. `param` names the offending parameter, `code` is for programs."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None


# From a problem to the status and the body of an answer.
ErrorShape = Callable[[Problem], tuple[int, dict[str, Any]]]


class ApiError(Exception):
    """An error response; its arguments are those of Problem."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(status, message, param, code)


def openai_error(problem: Problem) -> tuple[int, dict[str, Any]]:
    """`type` and, for an overload, `code` are those of OpenAI."""
    kind, code = "invalid_request_error" if problem.status < 500 else "server_error", problem.code
    if problem.status == OVERLOADED:
        kind, code = "requests", "rate_limit_exceeded"
    return problem.status, {"error": {"message": problem.message, "type": kind, "param": problem.param, "code": code}}


class ErrorShapes:
    """The shapes of errors by path. Those of `by_prefix` hold for a path and for all below it, the longest first;
    OpenAI's for the others."""

    def __init__(self, by_prefix: Mapping[str, ErrorShape]) -> None:
        self._by_prefix = sorted(by_prefix.items(), key=lambda row: -len(row[0]))

    def of(self, path: str) -> ErrorShape:
        for prefix, shape in self._by_prefix:
            if path == prefix or path.startswith(f"{prefix}/"):
                return shape
        return openai_error

    def answer(self, path: str, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
        """The answer to a request for `path`."""
        status, body = self.of(path)(problem)
        return JsonAnswer(body, status, dict(headers or {}))


def problem_of(error: Exception, otherwise: int) -> Problem:
    """What an error of ours says; `otherwise` is the status of what is nobody's mistake."""
    if isinstance(error, ApiError):
        return error.problem
    return Problem(_status_of(error, otherwise), str(error), _param_of(error))


@contextmanager
def blaming(param: str) -> Iterator[None]:
    """A RequestError in here becomes an ApiError (400) about `param`, unless it names another parameter itself."""
    try:
        yield
    except RequestError as error:
        raise ApiError(400, str(error), param=_param_of(error) or param) from error
    except RecursionError as error:
        raise ApiError(400, f"'{param}' is nested too deeply.", param=param) from error


def add_error_handlers(app: FastAPI, shapes: ErrorShapes) -> None:
    """Make `app` answer every error in the shape of its path."""

    def answer(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
        return shapes.answer(request.url.path, problem, headers)

    async def our_error(request: Request, error: Exception) -> Response:
        problem = problem_of(error, 503)
        return answer(request, problem, {"Retry-After": RETRY_AFTER_S} if problem.status == OVERLOADED else None)

    async def invalid_body(request: Request, error: RequestValidationError) -> Response:
        return answer(request, first_problem(error.errors()[0]))

    async def half_pair(request: Request, error: UnicodeEncodeError) -> Response:
        """pydantic cannot write a message that quotes such a string. Answers always can, so that it is from there."""
        return answer(request, Problem(400, "The body holds half of a surrogate pair, which is no character."))

    async def defect(request: Request, error: Exception) -> Response:
        return answer(request, Problem(500, f"The server failed: {error!r}. Its log says more."))

    async def http_error(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = allowed_methods(headers.get("Allow", ""))
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
        message = _why_unreadable(error.__cause__) or _what_is_there(request, error, headers) or str(error.detail)
        return answer(request, Problem(error.status_code, message), headers)

    app.exception_handler(ApiError)(our_error)
    app.exception_handler(InflightError)(our_error)
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
    if isinstance(error, RequestError) and error.param is not None:
        return error.param
    name = str(error).partition(" ")[0]
    return name if name in SamplingParams.__dataclass_fields__ else None


def first_problem(problem: Mapping[str, Any]) -> Problem:
    """One of pydantic's problems with a body."""
    where = [str(part) for part in problem["loc"] if part != "body" and not _IS_TYPE.fullmatch(str(part))]
    param = ".".join(where) or None
    if param is None and problem["type"] in ("missing", "model_attributes_type", "model_type", "dict_type"):
        return Problem(400, "The body must be a JSON object, with Content-Type: application/json.")
    if problem["type"] == "extra_forbidden":
        hint = _HINTS.get(str(param), "")
        return Problem(400, f"Unknown parameter: '{param}'.{hint}", param, "unknown_parameter")
    if problem["type"] == "json_invalid":
        return Problem(400, f"The body is no valid JSON: {problem['ctx']['error']}.")
    if problem["type"] == "missing":
        return Problem(400, f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
    message = str(problem["msg"]).removeprefix("Value error, ")
    return Problem(400, f"'{param}': {message}" if param else message, param)
