"""The openai package's client as backends use it, with its errors as the project's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from inflight.errors import EngineError, InflightError, OverloadedError, RequestError
from inflight.extras import install_hint, needs


def open_client(base_url: str | None, api_key: str | None, **options: Any) -> Any:
    """An openai.OpenAI. `base_url` and `api_key` None: those of its environment variables."""
    with needs("A server behind a program", install_hint("client")):
        import openai
    # A program of many threads waits as long as the server's queue is; what failed may have been computed.
    return openai.OpenAI(base_url=base_url, api_key=api_key, **{"timeout": None, "max_retries": 0, **options})


@contextmanager
def own_errors(base_url: str) -> Iterator[None]:
    """Around calls of a client: what the server refuses is a RequestError, what fails an EngineError."""
    import httpx
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        raise _error(error.status_code, error.body, str(error)) from error
    except openai.APIConnectionError as error:
        raise EngineError(f"The server at {base_url} cannot be reached: {error.__cause__ or error}") from error
    except httpx.TransportError as error:
        # While a stream is read the package passes these on as they are.
        raise EngineError(f"The server at {base_url} ended the stream: {error}") from error
    except openai.APIError as error:
        raise EngineError(f"The server at {base_url} failed: {error.message}") from error


def _error(status: int, body: object, text: str) -> InflightError:
    message = str(body.get("message", text)) if isinstance(body, dict) else text
    if status == 429:
        return OverloadedError(message)
    return RequestError(message) if status < 500 else EngineError(message)
