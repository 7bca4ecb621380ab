"""The user's choices for a conversion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from inflight.convert.quantization.facts import SchemeName
from inflight.convert.quantization.schemes import RECIPES, GroupSize
from inflight.errors import InflightError
from inflight.records import Record

CALIBRATION_NUMBERS = ("calibration_size", "calibration_length", "calibration_seed", "smoothing")
_TWO = 2
# On the command line, those that have other names there.
_FLAGS = {
    "calibration_text": "--calib-dataset",
    "calibration_size": "--calib-size",
    "calibration_length": "--calib-max-seq-length",
    "calibration_seed": "--random-seed",
    "smoothing": "--smoothquant",
}


def read_score_tokens(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """The tokens of "yes,no", or of a list of them. Raises InflightError for what is neither one nor two."""
    if given is None:
        return ()
    tokens = tuple(given.split(",")) if isinstance(given, str) else tuple(given)
    if (
        not all(isinstance(each, str) and each for each in tokens)
        or len({*tokens}) != len(tokens)
        or len(tokens) > _TWO
    ):
        raise InflightError(
            f"{given!r} is neither one token nor two by which a model scores.",
            "The first is that of a relevant pair: yes,no for Qwen3-Reranker.",
        )
    return tokens


class ConvertOptions(Record):
    """`dtype` "auto" keeps the source's type, float32 included. `tp_size` and `pp_size` are the tensor- and
    pipeline-parallel sizes. `use_parallel_embedding` splits the embedding over tensor-parallel ranks, along the
    vocabulary (`embedding_sharding_dim` 0) or the hidden size (1). `quantize` names a recipe of integer weights, None
    keeps them plain; `group_size` is that of int4 weights, `exclude_modules` are fnmatch patterns of modules that stay
    plain ("lm_head", "*.mlp.proj"), `dequantize` makes plain weights of those that the source has as integers, which
    without a scheme keep their numbers, and `module_schemes` pairs of a pattern and the recipe that its modules have
    instead, of which the first that matches counts. `revision` is that of a hub model. `overwrite` replaces an
    existing output directory.

    `calibration_text` is what the methods that need one choose levels by (None: the Python standard library's); they
    take at most `calibration_size` sequences of at most `calibration_length` tokens, picked by `calibration_seed`.
    `smoothing` is SmoothQuant's alpha. `budget` ("kl<=0.02") is how much an int4 model may lose on that text: as many
    of its matrices as that needs have int8.

    `score_tokens` makes a model that generates into one that scores pairs of texts, by the logit of one token or what
    it is more than that of a second one: ("yes", "no").

    `kv_cache_dtype` is that of the KV cache which engines of the checkpoint get unless they ask for another; "auto":
    what the source asks for.
    """

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    tp_size: PositiveInt = 1
    pp_size: PositiveInt = 1
    use_parallel_embedding: bool = False
    embedding_sharding_dim: Literal[0, 1] = 0
    quantize: SchemeName | None = None
    group_size: GroupSize = 32
    exclude_modules: tuple[str, ...] = ()
    module_schemes: tuple[tuple[str, SchemeName], ...] = ()
    dequantize: bool = False
    calibration_text: Path | None = None
    calibration_size: PositiveInt = 64
    calibration_length: PositiveInt = 512
    calibration_seed: int = 0
    budget: str | None = None
    score_tokens: Annotated[tuple[str, ...], Field(max_length=2)] = ()
    kv_cache_dtype: Literal["auto", "int8", "fp8"] = "auto"
    smoothing: float = Field(default=0.5, ge=0, le=1)
    revision: str | None = None
    overwrite: bool = False
    progress: bool = True

    @property
    def calibrates(self) -> bool:
        """True when levels are chosen by a text."""
        return any(RECIPES[name].method != "nearest" for name in self.schemes())

    @property
    def keeps(self) -> bool:
        """True when the numbers of a quantized source are kept."""
        return not (self.dequantize or self.schemes())

    def plain(self) -> ConvertOptions:
        """The same conversion to one rank of plain weights."""
        return ConvertOptions(dtype=self.dtype, revision=self.revision, progress=self.progress, dequantize=True)

    def widened(self, modules: Iterable[str], scheme: str) -> ConvertOptions:
        """The same conversion with another scheme for these modules."""
        return self.model_copy(
            update={"module_schemes": (*((module, scheme) for module in modules), *self.module_schemes)}
        )

    def of_one_rank(self) -> ConvertOptions:
        """The same conversion to one rank."""
        whole = {"tp_size": 1, "pp_size": 1, "use_parallel_embedding": False, "embedding_sharding_dim": 0}
        return self.model_copy(update=whole)

    def schemes(self) -> list[str]:
        """The recipes that are named, those of modules behind that of all."""
        return [name for name in (self.quantize, *(name for _, name in self.module_schemes)) if name is not None]

    def refuse_unread(self) -> None:
        """Raises InflightError for a given option that the others leave without any effect: it is a mistake."""
        has_embedding_parts = self.use_parallel_embedding
        schemes = self.schemes()
        has_groups = any(RECIPES[name].weights.scale == "group" for name in schemes)
        quantized = " and ".join(dict.fromkeys(schemes)) or "weights that are not quantized"
        values = {name: getattr(self, name) for name in self.model_fields_set}
        given = {name for name, value in values.items() if value is not False and value != ()}  # 0 asks for something
        unread = {
            "group_size": (not has_groups, f"{quantized}: no groups; int4 has them"),
            "dequantize": (bool(schemes), "--quantize rounds dequantized numbers anyhow"),
            "exclude_modules": (not schemes, "nothing is quantized without --quantize"),
            "embedding_sharding_dim": (not has_embedding_parts, "it goes with --use-parallel-embedding"),
            "use_parallel_embedding": (self.tp_size == 1, "one rank holds the whole embedding; it goes with --tp-size"),
        }
        shared = any(RECIPES[name].weights.dtype == "int4" and RECIPES[name].method != "nearest" for name in schemes)
        unread["budget"] = (not shared, f"{quantized}: it is shared out between int4, calibrated, and int8")
        for name in ("calibration_text", *CALIBRATION_NUMBERS):
            unread[name] = (not self.calibrates, f"{quantized}: rounded to nearest without a text; int4 is calibrated")
        if self.budget is not None and self.pp_size > 1:
            raise InflightError("--budget chooses for the layers of a whole model: it does not go with --pp-size.")
        for name, (is_unread, why) in unread.items():
            if is_unread and name in given:
                flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
                raise InflightError(f"{flag} has no effect here: {why}.")
