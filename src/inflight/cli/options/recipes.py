"""Names of quantization recipes on the command line."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from inflight.convert.quantization.schemes import ALIASES, RECIPES

# Names of quantize.py that mean another method than there is here.
_INSTEAD = {
    "int4_awq": " int4_gptq is calibrated and keeps the form of int4_awq.",
    "w4a8_awq": " w4a8_gptq is calibrated as well.",
    "full_prec": " Leave the option out for plain weights.",
    "nvfp4": " No target computes it.",
}


def known_recipe(name: str | None) -> str | None:
    """The name of a recipe, or of none. Raises BadParameter with those that there are."""
    if name is None or name in RECIPES or name in ALIASES:
        return name
    known = ", ".join(map(repr, [*ALIASES, *RECIPES]))
    raise typer.BadParameter(f"{name!r} is not one of {known}.{_INSTEAD.get(name, '')}")


def module_schemes(given: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Texts PATTERN=SCHEME as pairs. Raises BadParameter for one that is none."""
    pairs = []
    for text in given:
        pattern, sign, name = text.rpartition("=")
        if not sign or not pattern:
            raise typer.BadParameter(f"--quantize-module {text!r} is not PATTERN=SCHEME.")
        pairs.append((pattern, known_recipe(name) or name))
    return tuple(pairs)
