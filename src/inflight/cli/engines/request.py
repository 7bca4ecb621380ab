"""What is asked of the engine of a model: built so, or found to be so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflight.cli.engines.resolve import engine_here, is_engine, resolve_engine
from inflight.errors import InflightError
from inflight.migration.quantization import EITHER, KEPT, SCHEMES, UNREAD

if TYPE_CHECKING:
    from inflight.engine_format.manifest import EngineManifest


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """`model`: an engine, or a model directory, hub id or GGUF file, or the address of one. `recipe`: fields of the
    target's recipe. `quantize`: a scheme, or a name that another server has for one or for what the model's files are;
    `dtype` auto and what is None: whatever the model or the engine has. `score_tokens`: what the model scores pairs by,
    "yes,no" or a list. `name_of`: how messages spell an option.
    """

    model: str
    target: str | None = None
    dtype: str = "auto"
    quantize: str | None = None
    group_size: int | None = None
    dequantize: bool = False
    score_tokens: str | Sequence[str] | None = None
    revision: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    name_of: Callable[[str], str] = flag

    def engine(self) -> Path:
        """The directory of the engine, converted and built if it is not there yet.

        Raises InflightError for an engine that is not as asked, for a scheme that is none, and what building raises.
        """
        here = engine_here(self.model)
        if here != self.model:
            return replace(self, model=here).engine()
        if is_engine(self.model):
            self._check()
            return Path(self.model).expanduser()
        from inflight.extras import install_hint, needs

        with needs("A model that is not an engine yet is converted and built first, which", install_hint("build")):
            from inflight.build.registry import find_target, make_recipe
            from inflight.convert.options import ConvertOptions, read_score_tokens

        target = self.target or "cpu"
        # A target that takes the model as it is has the type in its recipe.
        own = {"dtype": self.dtype} if "dtype" in find_target(target).recipe_class().model_fields else {}
        given: dict[str, Any] = {"dtype": self.dtype, "revision": self.revision}
        given |= {"quantize": scheme} if (scheme := self._scheme()) else {}
        given |= {"group_size": self.group_size} if self.group_size is not None else {}
        given |= {"dequantize": True} if self.dequantize else {}
        given |= {"score_tokens": tokens} if (tokens := read_score_tokens(self.score_tokens)) else {}
        with self._named_problems():
            options = ConvertOptions.model_validate(given)
            recipe = make_recipe(target, **self.recipe, **own)
        return resolve_engine(self.model, options, recipe)

    @contextmanager
    def _named_problems(self) -> Iterator[None]:
        """What a record of settings refuses becomes an InflightError."""
        from pydantic import ValidationError

        try:
            yield
        except ValidationError as error:
            found = [
                f"{self.name_of(str(each['loc'][0] if each['loc'] else ''))} {each['input']!r}: {each['msg']}."
                for each in error.errors()
            ]
            raise InflightError("\n".join(found)) from error

    def _scheme(self) -> str | None:
        """The scheme that is made of the model; None: the numbers that it has are kept."""
        asked = self.quantize
        if asked is None:
            return None
        name = self.name_of("quantize")
        if asked in UNREAD:
            raise InflightError(f"{name} {asked} {UNREAD[asked]}.")
        if asked in KEPT or asked in EITHER:
            found = self._stored_method()
            if found in (*KEPT.get(asked, ()), *EITHER.get(asked, ())):
                return None
            if asked in KEPT:
                is_so = f"is quantized by {found}" if found else "is not quantized"
                raise InflightError(
                    f"{name} {asked}: {self.model} {is_so}; {asked} is the format of a model that is quantized "
                    "already.",
                    "Leave the option out to keep the model's own numbers, or choose a scheme: inflight convert --help "
                    "lists them.",
                )
        from inflight.convert.quantization.schemes import ALIASES, RECIPES

        scheme = asked if asked in RECIPES or asked in ALIASES else SCHEMES.get(asked)
        if scheme is None:
            known = ", ".join([*ALIASES, *RECIPES])
            raise InflightError(f"{name} {asked} is no scheme.", f"There are {known}.")
        return scheme or None

    def _stored_method(self) -> str | None:
        """How the model's own weights are quantized, by the name that config.json has for it."""
        from inflight.convert.source.model import read_config
        from inflight.convert.source.quantized.methods import quantization_config

        location, config = read_config(self.model, self.revision)
        found = quantization_config(config)
        return "gguf" if location.file is not None else str(found.get("quant_method")) if found else None

    def _check(self) -> None:
        """Raises InflightError where the engine differs from what is asked."""
        from inflight.runtime.loading.engine_directory import read_engine_directory

        manifest = read_engine_directory(Path(self.model).expanduser()).manifest
        wrong = [
            f"{self.name_of(name)} {_spelled(asked)} (it has {_spelled(has)})"
            for name, asked, has in self._differences(manifest)
        ]
        if wrong:
            raise InflightError(
                f"{self.model} is an engine: {', '.join(wrong)} can only be chosen when it is built.",
                "Build it again with inflight build-engine, or give the model.",
            )

    def _differences(self, manifest: EngineManifest) -> Iterator[tuple[str, Any, Any]]:
        """Name, what is asked, and what the engine has."""
        from msgspec import UNSET

        limits = manifest.limits
        built: dict[str, Any] = {
            **manifest.recipe,
            **{name: getattr(limits, name) for name in limits.__struct_fields__},
            "tokens_per_block": manifest.kv_cache.tokens_per_block,
            "kv_cache_dtype": {"float8_e4m3fn": "fp8"}.get(manifest.kv_cache.dtype, manifest.kv_cache.dtype),
        }
        asked: dict[str, Any] = dict(self.recipe)
        for name, value, has in (
            ("target", self.target, manifest.target),
            ("dtype", None if self.dtype == "auto" else self.dtype, manifest.model.dtype),
            ("revision", self.revision, manifest.source.revision),
        ):
            if value is not None:
                asked[name], built[name] = value, has
        for name, value in asked.items():
            has = built.get(name)
            same = set(value) <= set(has or ()) if isinstance(value, tuple) else value == has
            if value is not None and value != "auto" and not same:
                yield name, value, has
        if self.dequantize and any(facts.scales is not None for facts in manifest.precision.values()):
            yield "dequantize", "", "quantized weights"
        tokens = () if manifest.pooling is UNSET else manifest.pooling.scored_by
        asked_tokens = self.score_tokens.split(",") if isinstance(self.score_tokens, str) else self.score_tokens
        if asked_tokens is not None and list(asked_tokens) != [*tokens]:
            yield "score_tokens", self.score_tokens, tokens or None
        yield from self._other_numbers(manifest)

    def _other_numbers(self, manifest: EngineManifest) -> Iterator[tuple[str, Any, Any]]:
        """Of the weights' own types: whether any matrix has the type that a scheme gives."""
        stored = {facts.weights for facts in manifest.precision.values() if facts.scales is not None}
        sizes = {facts.group_size for facts in manifest.precision.values() if facts.group_size}
        if self.group_size is not None and self.group_size not in sizes:
            yield "group_size", self.group_size, ", ".join(map(str, sorted(sizes))) or "no groups"
        asked = self.quantize
        if asked is None or ((asked in KEPT or asked in EITHER) and stored):
            return
        kind = SCHEMES.get(asked, asked).partition("_")[0]
        kinds = {"int8": "int8", "int4": "int4", "w4a8": "int4", "fp8": "float8_e4m3fn"}
        wanted = kinds.get(kind, kind)
        if wanted and not any(name.startswith(wanted) for name in stored):
            yield "quantize", asked, ", ".join(sorted(stored)) or "plain weights"


def _spelled(value: Any) -> str:
    return ",".join(value) if isinstance(value, (tuple, list)) else "no such thing" if value is None else str(value)
