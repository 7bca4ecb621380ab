"""Errors in Anthropic's shape."""

from __future__ import annotations

from typing import Any

from inflight.triton_backend.openai.errors import Problem

_KINDS = {
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(problem: Problem) -> tuple[int, dict[str, Any]]:
    """The message names the parameter, as Anthropic's do; the shape has no other place for it."""
    otherwise = "invalid_request_error" if problem.status < 500 else "api_error"
    kind = _KINDS.get(problem.status, otherwise)
    message = problem.message
    if problem.param is not None and problem.param not in message:
        message = f"{problem.param}: {message}"
    return problem.status, {"type": "error", "error": {"type": kind, "message": message}}
