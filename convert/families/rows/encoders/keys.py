"""What the configs of encoders have beside the common keys."""

from __future__ import annotations

from typing import Any

from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.rows.keys import Raw, refuse_other_head_size

# Of the table of positions of RoBERTa (Liu et al., 2019): behind that of padding.
FIRST_POSITION = 2
# What MPNet of transformers takes, whatever its config says.
_BUCKETS, _FURTHEST = 32, 128


def encoder_keys(values: ConfigValues) -> dict[str, Any]:
    """What changes the mathematics of an encoder and is not there."""
    refuse_other_head_size(values)
    values.refuse("is_decoder", "an encoder's tokens see all others")
    values.refuse("is_encoder_decoder", "there is no second model")
    values.refuse("add_cross_attention", "there is no second model")
    refuse_other(values, "position_embedding_type", "absolute", "positions have a table")
    return {}


def refuse_other(values: ConfigValues, key: str, known: Any, why: str) -> None:
    """Note the value of `key`, unless it is null, absent or `known`."""
    if values.raw.get(key) not in (None, known):
        values.problems.append(f"{values.named(key)} {values.raw[key]!r} is not supported: {why}")


def token_types(values: ConfigValues) -> dict[str, Any]:
    return {"token_types": values.count("type_vocab_size")}


def narrower_embeddings(values: ConfigValues) -> dict[str, Any]:
    """Tables that are not as wide as the layers."""
    width = values.count("embedding_size")
    return {**token_types(values), "embedding_size": None if width == values.raw.get("hidden_size") else width}


def roberta_config(raw: Raw) -> Raw:
    """Positions count from behind the id of padding, so that the first rows of their table are those of no token."""
    count = raw.get("max_position_embeddings", 512)
    return {**raw, "max_position_embeddings": count - FIRST_POSITION if isinstance(count, int) else count}


def roberta_keys(values: ConfigValues) -> dict[str, Any]:
    padding = values.raw.get("pad_token_id")
    if padding != FIRST_POSITION - 1:
        values.problems.append(f"pad_token_id {padding!r} is not supported: positions begin at {FIRST_POSITION}")
    return encoder_keys(values)


def mpnet_facts(values: ConfigValues) -> dict[str, Any]:
    buckets = values.raw.get("relative_attention_num_buckets")
    if buckets not in (None, _BUCKETS):
        values.problems.append(
            f"relative_attention_num_buckets {buckets!r} is not supported: transformers takes {_BUCKETS}"
        )
    return {"relative_buckets": _BUCKETS, "furthest_bucket": _FURTHEST}
