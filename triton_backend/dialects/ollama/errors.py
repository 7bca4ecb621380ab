"""Errors in Ollama's shape."""

from __future__ import annotations

from typing import Any

from inflight.triton_backend.openai.errors import Problem


def ollama_error(problem: Problem) -> tuple[int, dict[str, Any]]:
    message = problem.message
    if problem.param is not None and problem.param.rpartition(".")[2] not in message:
        message = f"{problem.param}: {message}"
    return problem.status, {"error": message}
