"""What the user chooses about an engine, and what it comes to for one model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveInt

from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.quantization.scheme import KV_CACHE_ALGORITHM
from inflight.engine_format.manifest import Limits, WeightPlace
from inflight.errors import BuildError
from inflight.records import Record

TargetName = Literal["cpu", "reference", "tensorrt"]
KvCacheDtype = Literal["auto", "float32", "float16", "bfloat16", "int8"]
KvCacheType = Literal["continuous", "paged"]

# A cache and rotary tables for a model's whole claim (131,072 and more) are rarely wanted unasked.
DEFAULT_MAX_SEQ_LEN = 8192
DEFAULT_LOGIT_ROWS = 64
_BLOCK_STEP = 16
# Sums of integers over the tokens of a block must fit in 32 bits.
_MAX_INT8_BLOCK = 512


class BuildRecipe(Record):
    """The recipe of `inflight build-engine`; its fields are the flags.

    cpu: levels, or "native"; the engine holds code for each. max_seq_len None: the model's max_position_embeddings,
    at most 8192 and what one table of rotary angles is right for. max_num_tokens: the most tokens of one step.
    max_logit_rows None: 64 or max_batch_size. kv_cache_dtype "auto" is int8 where the checkpoint says so, otherwise
    the weights' type. cxx: a clang in place of zig. sm, full, portable, weights and kv_cache_type belong to the
    tensorrt target: GPU generations ("89"), full TensorRT in place of TensorRT-RTX, one plan for all generations,
    where the weights are, and whether a sequence's cache is one piece (None: it is). Raises pydantic's
    ValidationError on values below 1.
    """

    target: TargetName = "cpu"
    cpu: tuple[str, ...] = ("native",)
    max_batch_size: PositiveInt = 64
    max_seq_len: PositiveInt | None = None
    max_num_tokens: PositiveInt = 1024
    max_logit_rows: PositiveInt | None = None
    tokens_per_block: PositiveInt = 32
    kv_cache_dtype: KvCacheDtype = "auto"
    cxx: str | None = None
    sm: tuple[str, ...] = ()
    full: bool = False
    portable: bool = False
    weights: WeightPlace | None = None
    kv_cache_type: KvCacheType | None = None

    def resolve(self, config: CheckpointConfig) -> BuildRecipe:
        """The same recipe with nothing left to defaults but `cpu`. Raises BuildError naming every bad value."""
        positions, longest = config.max_position_embeddings, config.longest_sequence
        bounds = [bound for bound in (positions, longest, DEFAULT_MAX_SEQ_LEN) if bound is not None]
        max_seq_len = self.max_seq_len or min(bounds)
        max_num_tokens = max(self.max_num_tokens, self.max_batch_size)
        rows = self.max_logit_rows or max(DEFAULT_LOGIT_ROWS, self.max_batch_size)
        resolved = self.model_copy(
            update={
                "max_seq_len": max_seq_len,
                "max_num_tokens": max_num_tokens,
                "max_logit_rows": min(rows, max_num_tokens),
                "kv_cache_dtype": _kv_cache_dtype(config) if self.kv_cache_dtype == "auto" else self.kv_cache_dtype,
            }
        )
        problems = _problems(resolved, positions, longest)
        if problems:
            raise BuildError("The engine cannot be built as asked:\n" + "\n".join(f"  {text}" for text in problems))
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
        """As the manifest keeps it: flag names (with underscores) and plain values."""
        return self.model_dump(mode="json")


def _kv_cache_dtype(config: CheckpointConfig) -> str:
    """The type that the checkpoint asks for. Scales of an int8 cache are taken from every token: calibrated ones that
    the checkpoint may carry (kv_cache_scaling_factor) are not read."""
    return "int8" if config.quantization.kv_cache_quant_algo == KV_CACHE_ALGORITHM else config.dtype


def _problems(recipe: BuildRecipe, positions: int | None, longest: int | None) -> list[str]:
    limits = recipe.limits
    checks = [
        (
            recipe.tokens_per_block % _BLOCK_STEP != 0,
            f"--tokens-per-block {recipe.tokens_per_block}: a multiple of 16.",
        ),
        (
            recipe.kv_cache_dtype == "int8" and recipe.tokens_per_block > _MAX_INT8_BLOCK,
            f"--tokens-per-block {recipe.tokens_per_block}: at most {_MAX_INT8_BLOCK} with an int8 KV cache.",
        ),
        (
            positions is not None and limits.max_seq_len > positions,
            f"--max-seq-len {limits.max_seq_len}: the model knows {positions} positions.",
        ),
        (
            longest is not None and limits.max_seq_len > longest,
            f"--max-seq-len {limits.max_seq_len}: at most {longest}. In a longer sequence this model turns every "
            "position by other angles (longrope), the ones in the KV cache too, which an engine's one table cannot.",
        ),
        (
            limits.max_logit_rows < limits.max_batch_size,
            f"--max-logit-rows {limits.max_logit_rows}: at least max_batch_size, {limits.max_batch_size}.",
        ),
        (
            recipe.target != "tensorrt" and bool(recipe.sm or recipe.full or recipe.portable or recipe.weights),
            f"--sm, --full, --portable and --weights: they are for --target tensorrt, and this is {recipe.target}.",
        ),
        (
            recipe.target != "tensorrt" and recipe.kv_cache_type == "continuous",
            f"--kv-cache-type continuous: it is for --target tensorrt; the cache of {recipe.target} is paged.",
        ),
    ]
    return [text for wrong, text in checks if wrong]
