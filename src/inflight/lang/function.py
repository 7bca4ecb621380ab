"""Programs: functions over a state, and how they are run."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

from inflight.errors import InflightError
from inflight.lang.backends.base import Backend
from inflight.lang.interpreter import Interpreter
from inflight.lang.options import DEFAULTS, GenOptions
from inflight.lang.state import ProgramState
from inflight.progress import progress_bar

# Arguments of run and run_batch that every gen has where it gives none of its own. SGLang has another name for one.
_OPTIONS = {each.name for each in fields(GenOptions)} - {"max_tokens", "seed", "dtype", "regex", "json_schema"}
_OPTIONS |= {"max_new_tokens"}
_default_backend: Backend | None = None


def set_default_backend(backend: Backend | None) -> None:
    """What runs the programs that are given no `backend`."""
    global _default_backend
    _default_backend = backend


class Function:
    """A program: what `function` makes of a Python function."""

    def __init__(self, body: Callable[..., Any], bound: Mapping[str, Any] | None = None) -> None:
        names = list(inspect.signature(body).parameters)
        if not names or names[0] != "s":
            raise InflightError(f"The first argument of {body.__name__} must be s, the state that it appends to.")
        self.func = body
        self.arg_names = names[1:]
        self._bound = dict(bound or {})
        self.__name__, self.__doc__ = body.__name__, body.__doc__

    def bind(self, **arguments: Any) -> Function:
        """The program with some of its arguments fixed."""
        if unknown := [name for name in arguments if name not in self.arg_names]:
            raise InflightError(f"{self.__name__} has no argument {unknown[0]}; it has {', '.join(self.arg_names)}.")
        return Function(self.func, {**self._bound, **arguments})

    def run(
        self, *args: Any, stream: bool = False, backend: Backend | None = None, use_thread: bool = True, **kwargs: Any
    ) -> ProgramState:
        """Run it and return its state.

        args and kwargs: those of the program, and beside them max_new_tokens (128), temperature (1.0) and the other
        arguments of `gen` but dtype, regex, json_schema and seed, for every gen that gives none of its own. stream:
        return at once, for text_iter. use_thread, which SGLang has, is without effect. Raises what the program raises,
        and InflightError for what cannot be served.
        """
        arguments, defaults = self._split(kwargs)
        interpreter = Interpreter(_backend(backend), defaults, stream)
        state = ProgramState(interpreter)

        def body() -> None:
            try:
                state.ret_value = self.func(state, *args, **{**self._bound, **arguments})
            except BaseException as error:
                interpreter.fail(error)
            interpreter.end()

        if stream:
            threading.Thread(target=body, name="inflight-program", daemon=True).start()
            return state
        body()
        interpreter.sync_all()
        return state

    def __call__(self, *args: Any, **kwargs: Any) -> ProgramState:
        return self.run(*args, **kwargs)

    def run_batch(
        self,
        batch_kwargs: Sequence[Mapping[str, Any] | Sequence[Any]],
        *,
        backend: Backend | None = None,
        num_threads: int | str = "auto",
        progress_bar: bool = False,
        generator_style: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Run it once for each of `batch_kwargs`, `num_threads` at a time ("auto": 96, or 16 for each core), and return
        the states in their order; with generator_style, one after the other as they come.

        batch_kwargs: the arguments of each run, by name or in their order. kwargs: as in `run`, for all of them. The
        first error is raised, when those that run have ended.
        """
        runs = [self._arguments(each) for each in batch_kwargs]
        if unknown := self._split(kwargs)[0]:
            name = next(iter(unknown))
            raise InflightError(f"run_batch has no argument {name}.", f"It has {', '.join(sorted(_OPTIONS))}.")
        threads = _threads(num_threads)
        if not runs:
            return iter(()) if generator_style else []
        states = self._states(runs, kwargs, _backend(backend), threads, progress_bar)
        return states if generator_style else list(states)

    def _states(
        self, runs: list[dict[str, Any]], given: dict[str, Any], backend: Backend, threads: int, shows: bool
    ) -> Iterator[ProgramState]:
        executor = ThreadPoolExecutor(min(threads, len(runs)))
        with executor, progress_bar("Running", len(runs), enabled=shows) as advance:
            futures = [executor.submit(self.run, backend=backend, **{**given, **arguments}) for arguments in runs]
            try:
                for future in futures:
                    yield future.result()
                    advance(1)
            finally:
                executor.shutdown(wait=False, cancel_futures=True)

    def _arguments(self, given: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
        if isinstance(given, Mapping):
            return dict(given)
        if isinstance(given, str) or len(given) > len(self.arg_names):
            raise InflightError(
                f"{self.__name__} has {len(self.arg_names)} arguments, {', '.join(self.arg_names)}; given: {given!r}.",
                "Give each run a mapping of names to values, or a list of values.",
            )
        return dict(zip(self.arg_names, given, strict=False))

    def _split(self, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], GenOptions]:
        """Arguments of the program, and the options of every gen. A program may have an argument with an option's name;
        then it is the program's."""
        options = {name: kwargs[name] for name in kwargs if name in _OPTIONS and name not in self.arg_names}
        arguments = {name: value for name, value in kwargs.items() if name not in options}
        if "max_new_tokens" in options:
            options["max_tokens"] = options.pop("max_new_tokens")
        return arguments, GenOptions(**options).over(DEFAULTS)


def function(body: Callable[..., Any] | None = None, num_api_spec_tokens: int | None = None) -> Any:
    """Decorate a Python function, whose first argument is the state `s`, to make it a program."""
    if num_api_spec_tokens is not None:
        raise InflightError("num_api_spec_tokens is not supported: a program's requests are computed as it makes them.")
    return function if body is None else Function(body)


def _threads(wanted: int | str) -> int:
    """Programs that run at once. Raises InflightError for what is no number of them."""
    if wanted == "auto":
        return max(96, 16 * (os.cpu_count() or 1))
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise InflightError(f'num_threads is {wanted!r}; it must be "auto" or 1 or more programs at once.')
    return wanted


def _backend(given: Backend | None) -> Backend:
    found = given or _default_backend
    if found is None:
        raise InflightError(
            "There is no backend to run the program.",
            "Call set_default_backend(Runtime(engine)) or set_default_backend(RuntimeEndpoint(url)) first.",
        )
    return found
