"""The kind of an error, where only its words reach the client: the responses of a gRPC stream have no status.

Triton's own way, the metadata `triton_grpc_error`, ends streams with a status; it makes Triton 2.51 crash (SIGSEGV) now
and then when streams fail together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from inflight.errors import EngineError, InflightError, OverloadedError, RequestError

# The parameter of a request whose errors are to begin with their code.
ASKS_FOR_CODES = "error_codes"

# Triton's code for each kind of error; for any other it is INTERNAL.
_CODES: Mapping[type[InflightError], str] = {RequestError: "INVALID_ARG", OverloadedError: "UNAVAILABLE"}
_KINDS: Mapping[str, type[InflightError]] = {code: kind for kind, code in _CODES.items()}
_WITH_CODE = re.compile(r"\[([A-Z_]+)\] (.*)", re.DOTALL)


def code_of(error: InflightError) -> str:
    return _CODES.get(type(error), "INTERNAL")


def with_code(error: InflightError) -> str:
    """What a client is told that asked for codes."""
    return f"[{code_of(error)}] {error}"


def error_of(code: str, message: str) -> InflightError:
    return _KINDS.get(code, EngineError)(message)


def read_with_code(message: str) -> InflightError:
    """The error that `with_code` wrote; what has no code, because it is Triton's own, is an EngineError."""
    found = _WITH_CODE.fullmatch(message)
    return EngineError(message) if found is None else error_of(found[1], found[2])
