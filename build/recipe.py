"""The user's choices for an engine, and their values for one model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import PositiveInt

from inflight.dtypes import DtypeName
from inflight.engine_format.manifest import Limits
from inflight.errors import BuildError
from inflight.records import Record

if TYPE_CHECKING:
    from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.checkpoint.pooling import PoolingRecord

KvCacheDtype = Literal["auto", "float32", "float16", "bfloat16", "int8", "fp8", "int4"]
KvCacheType = Literal["continuous", "paged"]
Recipe = TypeVar("Recipe", bound="BuildRecipe")

# By default no KV cache and rotary tables for the model's full context (131,072 and more), which few need.
DEFAULT_MAX_SEQ_LEN = 8192
DEFAULT_LOGIT_ROWS = 64
_BLOCK_STEP = 16
# Sums of integers over the tokens of a block must fit in 32 bits.
_MAX_INTEGER_BLOCK = 512
# Why a step must have room for so many tokens.
_TOKEN_OF_ALL = "in one step every sequence may have a token."
_WHOLE_TEXTS = "a text is embedded in one step."


@dataclass(frozen=True, kw_only=True)
class Flag:
    """How a field of a recipe stands on the command line, as metadata of its annotation.

    The flag is --field-name, and --field_name too; `names` are further ones. least: the smallest number that it takes.
    off: the flag of a boolean's other side. A field of type tuple[str, ...] may be repeated, or given with commas.
    """

    help: str
    names: tuple[str, ...] = ()
    least: int | None = None
    off: str | None = None


class BuildRecipe(Record):
    """What recipes of all targets have in common; each target's own class adds what is its own. Fields are the flags
    of `inflight build-engine`.

    max_seq_len None: the model's max_position_embeddings, at most 8192 and what one rotary table is right for.
    max_num_tokens: the most tokens of one step.
    max_logit_rows None: 64 or max_batch_size. A model that embeds takes a whole text in one step, and as many rows as
    it pools. kv_cache_dtype "auto" is int8 or fp8 where the checkpoint says so, otherwise the weights' type.
    kv_cache_type None: the target's first (Capabilities.kv_cache_types). Raises pydantic's
    ValidationError on values below 1.
    """

    target: ClassVar[str]

    max_batch_size: Annotated[
        PositiveInt, Flag(help="Maximum sequences that run at once.", names=("--max-num-seqs",), least=1)
    ] = 64
    max_seq_len: Annotated[
        PositiveInt | None,
        Flag(
            help="Maximum tokens of a sequence, prompt and output. Default: the model's maximum, at most 8192.",
            names=("--max-model-len",),
            least=1,
        ),
    ] = None
    max_num_tokens: Annotated[
        PositiveInt,
        Flag(
            help="Maximum tokens in one step. Longer prompts are split over steps (chunked prefill).",
            names=("--max-num-batched-tokens",),
            least=1,
        ),
    ] = 1024
    max_logit_rows: Annotated[
        PositiveInt | None, Flag(help="Maximum rows in one step whose logits are computed.", least=1)
    ] = None
    tokens_per_block: Annotated[
        PositiveInt,
        Flag(help="Tokens per block of the paged KV cache, a multiple of 16.", names=("--block-size",), least=16),
    ] = 32
    kv_cache_dtype: Annotated[
        KvCacheDtype,
        Flag(
            help="Data type of the KV cache; fp8: E4M3. auto: int8 or fp8 if the checkpoint asks for it, else the "
            "type of the weights."
        ),
    ] = "auto"
    kv_cache_type: Annotated[
        KvCacheType | None,
        Flag(
            help="Layout of the KV cache. paged: blocks of tokens; continuous: a slot of max_seq_len tokens per "
            "sequence. Default: that of the target."
        ),
    ] = None

    def resolve(self: Recipe, config: CheckpointConfig) -> Recipe:
        """The same recipe with no common field left to defaults but `kv_cache_type`. Raises BuildError naming every bad
        value."""
        positions, longest, pooling = config.max_position_embeddings, config.longest_sequence, config.pooling
        return self._resolved(positions, longest, _kv_cache_dtype(config), pooling)

    def resolve_for(self: Recipe, positions: int | None, dtype: str) -> Recipe:
        """The same for a model of so many positions (None: any number), whose cache is of its own type."""
        return self._resolved(positions, None, dtype, None)

    def _resolved(
        self: Recipe, positions: int | None, longest: int | None, cache_dtype: str, pooling: PoolingRecord | None
    ) -> Recipe:
        made_for = None if pooling is None else pooling.max_length
        bounds = [bound for bound in (positions, longest, made_for, DEFAULT_MAX_SEQ_LEN) if bound is not None]
        max_seq_len = self.max_seq_len or min(bounds)
        max_num_tokens = max(self.max_num_tokens, self.max_batch_size, max_seq_len if pooling else 0)
        rows = self.max_logit_rows or max(DEFAULT_LOGIT_ROWS, self.max_batch_size)
        if pooling is not None:
            every = pooling.rows == "all" or self.max_logit_rows == max_num_tokens
            rows = max_num_tokens if every else self.max_batch_size
        resolved = self.model_copy(
            update={
                "max_seq_len": max_seq_len,
                "max_num_tokens": max_num_tokens,
                "max_logit_rows": min(rows, max_num_tokens),
                "kv_cache_dtype": cache_dtype if self.kv_cache_dtype == "auto" else self.kv_cache_dtype,
            }
        )
        refuse_problems(_problems(self, resolved, positions, longest, pooled=pooling is not None))
        return resolved

    @property
    def limits(self) -> Limits:
        """The limits of a resolved recipe."""
        assert self.max_seq_len is not None and self.max_logit_rows is not None, "the recipe is not resolved"
        return Limits(
            max_batch_size=self.max_batch_size,
            max_seq_len=self.max_seq_len,
            max_num_tokens=self.max_num_tokens,
            max_logit_rows=self.max_logit_rows,
        )

    def record(self) -> dict[str, Any]:
        """As the manifest keeps it: the target, then flag names (with underscores) and plain values."""
        return {"target": self.target, **self.model_dump(mode="json")}

    @property
    def cache_dtype(self) -> DtypeName:
        """The type of the KV cache of a resolved recipe."""
        assert self.kv_cache_dtype != "auto", "the recipe is not resolved"
        return "float8_e4m3fn" if self.kv_cache_dtype == "fp8" else self.kv_cache_dtype

    @classmethod
    def own_fields(cls) -> list[str]:
        """Those that not every target's recipe has."""
        return [name for name in cls.model_fields if name not in BuildRecipe.model_fields]


def flag_name(field: str) -> str:
    return "--" + field.replace("_", "-")


def refuse_problems(problems: list[str]) -> None:
    """Raises BuildError with all of them, if there are any."""
    if problems:
        raise BuildError("The engine cannot be built as asked:\n" + "\n".join(f"  {text}" for text in problems))


def _kv_cache_dtype(config: CheckpointConfig) -> str:
    """The type that the checkpoint asks for. Scales of an int8 cache are taken from every token: calibrated ones that
    the checkpoint may carry (kv_cache_scaling_factor) are read for fp8 alone."""
    return (config.quantization.kv_cache_quant_algo or config.dtype).lower()


def _problems(
    asked: BuildRecipe, recipe: BuildRecipe, positions: int | None, longest: int | None, *, pooled: bool
) -> list[str]:
    """`asked`: the recipe before its defaults were filled in."""
    limits, given = recipe.limits, asked.model_fields_set
    least = "max_seq_len" if pooled and limits.max_seq_len > recipe.max_batch_size else "max_batch_size"
    checks = [
        (
            recipe.tokens_per_block % _BLOCK_STEP != 0,
            f"--tokens-per-block {recipe.tokens_per_block}: a multiple of 16.",
        ),
        (
            recipe.kv_cache_dtype in ("int8", "int4") and recipe.tokens_per_block > _MAX_INTEGER_BLOCK,
            f"--tokens-per-block {recipe.tokens_per_block}: at most {_MAX_INTEGER_BLOCK} with an "
            f"{recipe.kv_cache_dtype} KV cache.",
        ),
        (
            positions is not None and limits.max_seq_len > positions,
            f"--max-seq-len {limits.max_seq_len}: the model knows {positions} positions.",
        ),
        (
            longest is not None and limits.max_seq_len > longest,
            f"--max-seq-len {limits.max_seq_len}: at most {longest}. The model computes otherwise in longer sequences: "
            "longrope has other rotary frequencies, also for the keys that are already in the KV cache, and "
            "Ministral 3 scales queries.",
        ),
        (
            "max_num_tokens" in given and recipe.max_num_tokens != asked.max_num_tokens,
            f"--max-num-tokens {asked.max_num_tokens}: at least {flag_name(least)}, {getattr(limits, least)}: "
            + (_TOKEN_OF_ALL if least == "max_batch_size" else _WHOLE_TEXTS),
        ),
        (
            pooled and asked.max_logit_rows not in (None, recipe.max_logit_rows),
            f"--max-logit-rows {asked.max_logit_rows}: how hidden states are pooled decides it, "
            f"{recipe.max_logit_rows} here"
            + f", or {recipe.max_num_tokens} (max_num_tokens) for vectors of single tokens"
            * (recipe.max_logit_rows != recipe.max_num_tokens)
            + ".",
        ),
        (
            not pooled and asked.max_logit_rows not in (None, recipe.max_logit_rows),
            f"--max-logit-rows {asked.max_logit_rows}: at most --max-num-tokens, {recipe.max_num_tokens}.",
        ),
        (
            limits.max_logit_rows < limits.max_batch_size,
            f"--max-logit-rows {limits.max_logit_rows}: at least max_batch_size, {limits.max_batch_size}.",
        ),
    ]
    return [text for wrong, text in checks if wrong]
