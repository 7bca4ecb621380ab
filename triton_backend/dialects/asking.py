"""A request of another dialect as a body of OpenAI's API."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import ValidationError

from inflight.errors import RequestError
from inflight.triton_backend.openai.errors import ApiError, Problem, first_problem, problem_of
from inflight.triton_backend.openai.protocol.chat import ChatBody
from inflight.triton_backend.openai.protocol.checks import check_chat
from inflight.triton_backend.openai.protocol.values import Body

B = TypeVar("B", bound=Body)

# OpenAI's name of a parameter, and what the dialect calls it.
Names = Mapping[str, str]


@contextmanager
def in_words_of(names: Names) -> Iterator[None]:
    """What is refused in here is an ApiError that calls parameters as the dialect does."""
    try:
        yield
    except ValidationError as error:
        problem = first_problem(error.errors()[0])
        raise _renamed(problem, names) from error
    except (ApiError, RequestError) as error:
        raise _renamed(problem_of(error, 400), names) from error


def chat_body(fields: Mapping[str, Any]) -> ChatBody:
    """A checked body; fields that are None are left out. Raises ValidationError, or ApiError (400) for parameters that
    contradict each other."""
    body = read_body(ChatBody, fields)
    check_chat(body)
    return body


def read_body(kind: type[B], fields: Mapping[str, Any]) -> B:
    """`fields` as a body. Raises ValidationError."""
    return kind.model_validate({name: value for name, value in fields.items() if value is not None})


def _renamed(problem: Problem, names: Names) -> ApiError:
    """Messages name the parameter at their beginning or in quotes, one that is no word of English anywhere."""
    message, param = problem.message, problem.param
    for name, own in names.items():
        before = r"(\b)" if "_" in name else "(^|')"
        message = re.sub(rf"{before}{re.escape(name)}\b", rf"\g<1>{own}", message)
        if param is not None and (param == name or param.startswith(f"{name}.")):
            param = own + param[len(name) :]
    return ApiError(problem.status, message, param=param, code=problem.code)
