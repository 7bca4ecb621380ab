"""What a program appends to its state: text, generations, selections, and the beginning and end of roles."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from inflight.errors import InflightError
from inflight.lang.choices import ChoicesSamplingMethod, token_length_normalized
from inflight.lang.options import GenOptions


class Expression:
    """Expressions and strings are joined with `+`."""

    def __add__(self, other: str | Expression) -> Expression:
        return Sequence((*parts(self), *parts(other)))

    def __radd__(self, other: str | Expression) -> Expression:
        return Sequence((*parts(other), *parts(self)))


@dataclass(frozen=True, eq=False)
class Sequence(Expression):
    items: tuple[Expression, ...]


@dataclass(frozen=True, eq=False)
class Text(Expression):
    value: str


@dataclass(frozen=True, eq=False)
class Gen(Expression):
    name: str | None
    options: GenOptions = field(default_factory=GenOptions)


@dataclass(frozen=True, eq=False)
class Select(Expression):
    name: str | None
    choices: tuple[str, ...]
    method: ChoicesSamplingMethod


@dataclass(frozen=True, eq=False)
class RoleBegin(Expression):
    role: str


@dataclass(frozen=True, eq=False)
class RoleEnd(Expression):
    role: str


@dataclass(frozen=True, eq=False)
class ScopeBegin(Expression):
    """The text from here to the ScopeEnd of the same name becomes a variable."""

    name: str


@dataclass(frozen=True, eq=False)
class ScopeEnd(Expression):
    name: str


def parts(value: object) -> tuple[Expression, ...]:
    """The expressions that `value` is made of. Raises InflightError for what cannot be appended."""
    if isinstance(value, str):
        return (Text(value),)
    if isinstance(value, Sequence):
        return value.items
    if isinstance(value, Expression):
        return (value,)
    raise InflightError(
        f"{type(value).__name__} {value!r:.60} cannot be appended to a program's state.",
        "Append text, or what gen, select, system, user and assistant return.",
    )


# Options that say what a text is, or how many there are.
_NOT_OF_CHOICES = ("n", "dtype", "regex", "json_schema")


def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    min_tokens: int | None = None,
    n: int | None = None,
    stop: str | list[str] | None = None,
    stop_token_ids: list[int] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    ignore_eos: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
    dtype: type | str | None = None,
    choices: list[str] | None = None,
    choices_method: ChoicesSamplingMethod | None = None,
    regex: str | None = None,
    json_schema: str | dict[str, Any] | None = None,
    seed: int | None = None,
) -> Expression:
    """Text that the model generates; the variable `name` has it.

    What is not given is as `run` has it. `regex`, `json_schema` and `dtype` (int, float, bool or str) say what the text
    must be; with `choices` it is `select`. `n` above 1 makes the variable a list, of which the first goes on. With
    return_logprob, get_meta_info has output_token_logprobs, and output_top_logprobs of top_logprobs_num tokens each;
    with logprob_start_len also input_token_logprobs, from that token of the prompt on.
    """
    given = {key: value for key, value in locals().items() if key not in ("name", "choices", "choices_method")}
    if choices is None:
        return Gen(name, GenOptions(**given))
    if unread := [key for key in _NOT_OF_CHOICES if given[key] is not None and not (key == "n" and n == 1)]:
        raise InflightError(
            f"{unread[0]} has no effect beside choices, of which one is taken as it is.", "Leave it out."
        )
    if temperature:
        raise InflightError(f"temperature is {temperature}; of choices the best is taken, which has no temperature.")
    return select(name, choices, 0.0, choices_method or token_length_normalized)


def gen_int(name: str | None = None, **options: Any) -> Expression:
    """`gen` of an integer."""
    return gen(name, dtype=int, **options)


def gen_string(name: str | None = None, **options: Any) -> Expression:
    """`gen` of a string in quotes."""
    return gen(name, dtype=str, **options)


def select(
    name: str | None = None,
    choices: list[str] | None = None,
    temperature: float = 0.0,
    choices_method: ChoicesSamplingMethod = token_length_normalized,
) -> Expression:
    """The best of `choices`, of which each is scored as a whole; the variable `name` has it."""
    if not choices or not all(isinstance(choice, str) and choice for choice in choices):
        raise InflightError(f"choices is {choices!r}; it must be a list of strings, none of them empty.")
    if temperature > 1e-5:
        raise InflightError(f"temperature is {temperature}; select takes the best option, which has no temperature.")
    return Select(name, tuple(choices), choices_method)


def system(expression: str | Expression | None = None) -> Expression:
    """A message of the system."""
    return role("system", expression)


def user(expression: str | Expression | None = None) -> Expression:
    """A message of the user."""
    return role("user", expression)


def assistant(expression: str | Expression | None = None) -> Expression:
    """A message of the assistant."""
    return role("assistant", expression)


def role(name: str, expression: str | Expression | None) -> Expression:
    """A message of a role; None: an empty one."""
    inside = () if expression is None else parts(expression)
    return Sequence((RoleBegin(name), *inside, RoleEnd(name)))


def system_begin() -> Expression:
    """The beginning of a message of the system."""
    return RoleBegin("system")


def system_end() -> Expression:
    """The end of a message of the system."""
    return RoleEnd("system")


def user_begin() -> Expression:
    """The beginning of a message of the user."""
    return RoleBegin("user")


def user_end() -> Expression:
    """The end of a message of the user."""
    return RoleEnd("user")


def assistant_begin() -> Expression:
    """The beginning of a message of the assistant."""
    return RoleBegin("assistant")


def assistant_end() -> Expression:
    """The end of a message of the assistant."""
    return RoleEnd("assistant")


def separate_reasoning(expression: Expression | None = None, model_type: str | None = None) -> Expression:
    """Raises InflightError."""
    raise InflightError("separate_reasoning is not supported: reasoning stays part of a program's text.")


def image(path: object) -> Expression:
    """Raises InflightError."""
    raise InflightError("image is not supported: inflight's models read text alone.")


def video(path: object, num_frames: int) -> Expression:
    """Raises InflightError."""
    raise InflightError("video is not supported: inflight's models read text alone.")
