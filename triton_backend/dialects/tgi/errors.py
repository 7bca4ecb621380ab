"""Errors in TGI's shape, with its statuses."""

from __future__ import annotations

from typing import Any

from inflight.triton_backend.openai.errors import OVERLOADED, Problem


def tgi_error(problem: Problem) -> tuple[int, dict[str, Any]]:
    """What is wrong with a body is a 422, an overload 429, and what fails while it is generated 424."""
    if problem.status == OVERLOADED:
        return OVERLOADED, _body(f"Model is overloaded: {problem.message}", "overloaded")
    if problem.status in (500, 503):
        return 424, _body(f"Request failed during generation: {problem.message}", "generation")
    status = 422 if problem.status == 400 else problem.status
    return status, _body(f"Input validation error: {problem.message}", "validation")


def _body(message: str, kind: str) -> dict[str, Any]:
    return {"error": message, "error_type": kind}
