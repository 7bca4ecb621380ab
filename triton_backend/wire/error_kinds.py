"""The kind of an error, where only its words arrive: the responses of a gRPC stream have no status, and Triton 2.51
loses the code with which a model answers the call of another model.

Triton's own way for streams, the metadata `triton_grpc_error`, ends them with a status; it makes Triton 2.51 crash
(SIGSEGV) now and then when several fail together.
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


def read_with_code(message: str, code: str = "INTERNAL") -> InflightError:
    """The error that `with_code` wrote; where the message has none, that of `code`."""
    if found := _WITH_CODE.fullmatch(message):
        code, message = found[1], found[2]
    return _KINDS.get(code, EngineError)(message)
