"""What all bodies have in common: strict types, null for what is not given, and parameters that are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

TEXTS_OR_IDS = "a string, a list of strings, a list of token ids, or a list of such lists"


class Body(BaseModel):
    """An object of a request. Types are those of JSON: `true` is no number and "1" neither; an integer is a number.

    null says the same as leaving the key out, whatever the key: clients send back what they were given.
    """

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value is not None}


def described(what: str) -> WrapValidator:
    """For a union, whose own errors tell of one of its types alone."""

    def check(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
        try:
            return read(value)
        except ValidationError:
            raise ValueError(f"Input should be {what}") from None

    return WrapValidator(check)


def string_or(items: str) -> WrapValidator:
    """For a list of `items` in whose place a string may stand. Not a union, whose errors would name the types that it
    tried as if they were keys."""

    def check(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise ValueError(f"Input should be a string or a list of {items}")
        return read(value)

    return WrapValidator(check)


class Refused(NamedTuple):
    """What a parameter asks for that this server does not do. `nothing` are values that do not ask for it, beside those
    that are empty, 0 or false; with `even_empty` an empty value asks for it too."""

    what: str
    nothing: tuple[Any, ...] = ()
    even_empty: bool = False

    def check(self, value: Any) -> Any:
        asks = self.even_empty or bool(value)
        if asks and not any(type(value) is type(each) and value == each for each in self.nothing):
            raise ValueError(f"this server does not support {self.what}")
        return value


def refusing(what: str, *values: str) -> BeforeValidator:
    """For a field of which these values ask for something that this server does not do."""

    def check(value: Any) -> Any:
        if value in values:
            Refused(what).check(value)
        return value

    return BeforeValidator(check)


def refused_fields(table: Mapping[str, Refused]) -> dict[str, Any]:
    """Fields for pydantic's create_model."""
    return {name: (Annotated[Any, AfterValidator(refused.check)], None) for name, refused in table.items()}
