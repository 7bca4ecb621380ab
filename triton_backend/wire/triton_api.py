"""Triton's Python backend, as far as the models use it: `triton_python_backend_utils` exists in its processes alone."""

from __future__ import annotations

import importlib
import json
import threading
import traceback
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from inflight.errors import EngineError, InflightError
from inflight.triton_backend.launch.template_variables import wrong_parameters
from inflight.triton_backend.wire.client_names import in_clients_words
from inflight.triton_backend.wire.error_kinds import ASKS_FOR_CODES, code_of, read_with_code, with_code
from inflight.triton_backend.wire.request_tensors import Array

_FINAL = 1


def _backend_utils() -> Any:
    """Triton's module, None outside a Triton process: there, what needs no server can still be used."""
    try:
        return importlib.import_module("triton_python_backend_utils")
    except ImportError:
        return None


pb_utils: Any = _backend_utils()


def check_numpy() -> None:
    """Raises EngineError under numpy 2, with which the backend of Triton 2.51 passes numbers as zero bytes."""
    if int(np.__version__.split(".")[0]) >= 2:
        raise EngineError(
            f"Triton's Python backend needs numpy below 2; this is {np.__version__}.", "pip install 'numpy<2'"
        )


class ModelSettings:
    """The `parameters` of config.pbtxt. An empty value and an unfilled `${...}` read as unset.

    Raises EngineError for one with a value that is not possible, which fails the loading of the model: also where it
    was edited after `make-repo` had checked it, or came with a request to load.
    """

    def __init__(self, args: Mapping[str, str]) -> None:
        self._config: dict[str, Any] = json.loads(args["model_config"])
        self.model_name: str = args["model_name"]
        self.model_version: str = args["model_version"]
        wrong = wrong_parameters({key: value for key in self._config["parameters"] if (value := self.text(key))})
        if wrong:
            problems = [f'{each.key} is "{each.value}"; it takes {each.expected}.' for each in wrong]
            raise EngineError(f"{self.model_name}: {' '.join(problems)}", "Mend its config.pbtxt.")

    @property
    def decoupled(self) -> bool:
        return bool(self._config.get("model_transaction_policy", {}).get("decoupled", False))

    def text(self, key: str) -> str | None:
        value = str(self._config["parameters"].get(key, {}).get("string_value", ""))
        return None if not value or value.startswith("${") else value

    def required(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            raise EngineError(f"{self.model_name}: the parameter {key} is not set.", "Write the repository anew.")
        return value

    def integer(self, key: str) -> int | None:
        value = self.text(key)
        return None if value is None else int(value)

    def number(self, key: str) -> float | None:
        value = self.text(key)
        return None if value is None else float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.text(key)
        return default if value is None else value.lower() in ("true", "1", "yes")


def input_arrays(request: Any) -> dict[str, Array]:
    """Every input that was sent, by name."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def output_arrays(response: Any) -> dict[str, Array]:
    """Every output of the response of another model, by name."""
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def log_exception(message: str) -> None:
    """Write the exception being handled to the server's log."""
    pb_utils.Logger.log_error(f"{message}\n{traceback.format_exc()}")


def make_response(tensors: Mapping[str, Array], requested: Collection[str]) -> Any:
    """A response with those of `tensors` that the client asked for."""
    wanted = [pb_utils.Tensor(name, array) for name, array in tensors.items() if name in requested]
    return pb_utils.InferenceResponse(output_tensors=wanted)


def make_error(error: InflightError, message: str | None = None) -> Any:
    """A response with an error; `message` instead of its own words."""
    code = getattr(pb_utils.TritonError, code_of(error))
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message or str(error), code))


def read_error(code: int, message: str) -> InflightError:
    """The error that another model answered with; a code in its message counts."""
    names = {getattr(pb_utils.TritonError, name): name for name in ("INVALID_ARG", "UNAVAILABLE")}
    return read_with_code(message, names.get(code, "INTERNAL"))


def respond(
    request: Any, compute: Callable[[dict[str, Array]], Mapping[str, Array]], names: Mapping[str, str] | None = None
) -> Any:
    """The response of a model without state: `compute` of the request's inputs, or the reason why there is none, in
    which inputs have the `names` that clients give them."""
    try:
        return make_response(compute(input_arrays(request)), request.requested_output_names())
    except InflightError as error:
        reason = in_clients_words(error, names or {})
    except Exception as error:
        # What leaves `execute` is the answer of every request of the batch, with a traceback.
        log_exception("a request failed")
        reason = EngineError(f"{type(error).__name__}: {error}")
    return make_error(reason, with_code(reason) if _wants_codes(request) else None)


def _wants_codes(request: Any) -> bool:
    return ASKS_FOR_CODES in request.parameters()


class TritonChannel:
    """The response sender of one Triton request, which must not be touched after the final response.

    `names`: what the client calls the inputs that messages name otherwise.
    """

    def __init__(self, request: Any) -> None:
        self.names: Mapping[str, str] = {}
        self._sender = request.get_response_sender()
        self._requested = frozenset(request.requested_output_names())
        self._wants_codes = _wants_codes(request)
        self._lock = threading.Lock()
        self._closed = False

    def send(self, tensors: dict[str, Array], final: bool) -> None:
        self._send(make_response(tensors, self._requested), final)

    def send_error(self, error: InflightError) -> None:
        """Report the failure and end the stream."""
        error = in_clients_words(error, self.names)
        self._send(make_error(error, with_code(error) if self._wants_codes else None), final=True)

    def finish(self) -> None:
        """End the stream with a response that has no tensors, if it has not ended."""
        self._send(pb_utils.InferenceResponse(output_tensors=[]), final=True)

    def is_cancelled(self) -> bool:
        with self._lock:
            return not self._closed and bool(self._sender.is_cancelled())

    def _send(self, response: Any, final: bool) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = final
            self._sender.send(response, flags=_FINAL if final else 0)
