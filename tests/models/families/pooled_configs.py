"""Random configs of models whose hidden states are pooled: odd sizes, and what each kind has beyond the common keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers

# Those whose positions begin behind that of padding.
_PADDED_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet")
# Those that have Llama's keys.
_DECODERS = ("qwen3", "mistral", "llama", "gemma3_text", "eurobert")
MAX_POSITIONS = 120
T5_LIKE = ("t5", "mt5", "umt5")
_T5_NAMES = {
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "d_ff",
}
_DISTILBERT_NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}


def random_config(kind: str, name: str, vocab_size: int, rng: Any, changes: Mapping[str, Any]) -> Any:
    """A config of the class that `name` begins; `changes` are values of it."""
    heads, size = int(rng.choice([1, 2, 3])), 8 * int(rng.integers(1, 5))
    values: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": heads * size,
        "num_hidden_layers": int(rng.integers(1, 4)),
        "num_attention_heads": heads,
        "intermediate_size": int(rng.choice([56, 104, 200])),
        "max_position_embeddings": MAX_POSITIONS,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    if kind == "modernbert":
        values |= _modernbert(rng)
    elif kind in _DECODERS:
        values |= {"num_key_value_heads": 1, "head_dim": size, "tie_word_embeddings": False}
        values |= _gemma3(rng) if kind == "gemma3_text" else {}
        values |= {"is_causal": False} if kind == "qwen3" and rng.random() < 0.4 else {}
        values |= {"classifier_pooling": str(rng.choice(["bos", "mean", "late"]))} if kind == "eurobert" else {}
    elif kind in T5_LIKE:
        values = {_T5_NAMES.get(key, key): value for key, value in values.items()} | _t5(rng, size)
    elif kind == "distilbert":
        values = {_DISTILBERT_NAMES.get(key, key): value for key, value in values.items()}
    else:
        values |= _bert_like(kind, rng, values["hidden_size"])
    return getattr(transformers, f"{name}Config")(**{**values, **changes})


def _modernbert(rng: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"local_attention": int(rng.integers(5, 60)), "global_attn_every_n_layers": 2}
    values |= {"hidden_activation": str(rng.choice(["gelu", "silu"])), "cls_token_id": 0, "sep_token_id": 2}
    values |= {"classifier_pooling": str(rng.choice(["cls", "mean"])), "num_hidden_layers": 3}
    return values | {key: bool(rng.random() < 0.5) for key in ("attention_bias", "mlp_bias")}


def _gemma3(rng: Any) -> dict[str, Any]:
    """As EmbeddingGemma, whose windows look both ways; or as Gemma."""
    kinds = ["sliding_attention", "full_attention"]
    return {
        "num_hidden_layers": 3,
        "layer_types": [*kinds, str(rng.choice(kinds))],
        "sliding_window": int(rng.integers(5, 60)),
        "use_bidirectional_attention": bool(rng.random() < 0.7),
        "query_pre_attn_scalar": int(rng.integers(10, 200)),
    }


def _t5(rng: Any, size: int) -> dict[str, Any]:
    """Heads need not make up the hidden size, and distances beyond the furthest are in the tests' texts."""
    return {
        "d_kv": size + 8,
        "relative_attention_num_buckets": 4 * int(rng.integers(2, 9)),
        "relative_attention_max_distance": int(rng.integers(40, 128)),
        "feed_forward_proj": str(rng.choice(["relu", "silu", "gelu", "gated-gelu", "gated-gelu", "gated-silu"])),
    }


def _deberta(rng: Any, hidden: int) -> dict[str, Any]:
    """Either term or both, with projections of their own or the layer's, in buckets or not, with a table of positions
    or without, narrower embeddings or not. Distances beyond the last row are in the tests' texts.
    """
    terms = [["c2p"], ["p2c"], ["p2c", "c2p"], "p2c|c2p"][int(rng.choice([0, 1, 2, 2, 3, 3]))]
    furthest = int(rng.integers(20, 120))
    return {
        "relative_attention": True,
        "position_biased_input": bool(rng.random() < 0.5),
        "embedding_size": int(rng.choice([hidden, 8 * int(rng.integers(1, 6))])),
        "pos_att_type": terms,
        "share_att_key": bool(rng.random() < 0.5),
        "norm_rel_ebd": str(rng.choice(["none", "layer_norm"])),
        "max_relative_positions": int(rng.choice([-1, furthest])),
        "position_buckets": int(rng.choice([-1, *[int(rng.integers(2, furthest))] * 3])),
        "type_vocab_size": int(rng.choice([0, 1])),
    }


def _bert_like(kind: str, rng: Any, hidden: int) -> dict[str, Any]:
    values: dict[str, Any] = {"hidden_act": str(rng.choice(["gelu", "gelu_new", "relu"]))}
    values |= {"layer_norm_eps": float(rng.choice([1e-5, 1e-12]))}
    if kind in ("deberta", "deberta-v2"):
        return values | _deberta(rng, hidden)
    if kind in _PADDED_POSITIONS:
        values["max_position_embeddings"] = MAX_POSITIONS + 2
    if kind in ("electra", "albert"):
        values["embedding_size"] = int(rng.choice([hidden, 8 * int(rng.integers(1, 6))]))
    if kind == "gte":
        return values | {"type_vocab_size": int(rng.integers(0, 2))}
    tells_pairs = kind in ("bert", "electra", "albert", "nomic_bert")
    return values | ({} if kind == "mpnet" else {"type_vocab_size": 2 if tells_pairs else 1})
