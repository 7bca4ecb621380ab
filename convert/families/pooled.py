"""Models whose hidden states are pooled: how their configs tell, and decoders under the names that they have then.

sentence-transformers keeps what becomes of hidden states in files beside config.json (modules.json and those of its
modules); their contents travel in the config under `FILES_KEY`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from inflight.convert.families.family import Family

FILES_KEY = "sentence_transformers_files"
CLASSIFIER = "ForSequenceClassification"
# Model types whose tokens see all others; a row of theirs is in rows/encoders.py, or they are refused.
_ENCODER_TYPES = (
    *("bert", "roberta", "xlm-roberta", "camembert", "distilbert"),
    *("electra", "mpnet", "modernbert"),
)
# What models of other types need that is not there.
_MISSING = {
    "deberta-v2": "attention to relative positions",
    "nomic_bert": "encoders with a rotary embedding",
    "t5": "a bias of attention for the distance between tokens",
}
# Files of a model without a head have no name in front.
_BARE = tuple((name, f"model.{name}") for name in ("embed_tokens.", "layers.", "norm."))


def pools(config: Mapping[str, Any]) -> bool:
    """Whether a Hugging Face config is that of a model whose hidden states are pooled."""
    listed = _listed(config)
    bare = any(map(_is_bare, listed))
    return bool(FILES_KEY in config or bare or classifies(config) or config.get("model_type") in _ENCODER_TYPES)


def classifies(config: Mapping[str, Any]) -> bool:
    """Whether a product on top of a pooled hidden state yields scores."""
    return any(name.endswith(CLASSIFIER) for name in _listed(config))


def pools_as_encoder(config: Mapping[str, Any]) -> bool:
    """Whether it is known what becomes of an encoder's hidden states: a head that predicts masked tokens is none."""
    return FILES_KEY in config or classifies(config) or all(map(_is_bare, _listed(config)))


def pooled_decoder(family: Family) -> Family | None:
    """A decoder without its vocabulary projection; None where its names are those of no usual decoder."""
    if family.names["vocab_embedding"] != ("model.embed_tokens",) or family.names["ln_f"] != ("model.norm",):
        return None
    return replace(
        family,
        head_bias=False,
        names={**family.names, "classifier.out": ("score",)},
        renamed=(*family.renamed, *_BARE),
        ignored=(*family.ignored, "lm_head.*"),
    )


def missing(config: Mapping[str, Any]) -> str | None:
    """What a model needs that pools hidden states and is not read; None where nothing is known."""
    kind = config.get("model_type")
    if kind in _ENCODER_TYPES:
        return "what becomes of its hidden states; with modules.json, of sentence-transformers, it embeds"
    return _MISSING.get(str(kind))


def _is_bare(name: str) -> bool:
    """Whether an architecture is that of a model without a head, which GPT2LMHeadModel is not."""
    return name.endswith("Model") and not name.endswith(("HeadModel", "HeadsModel"))


def _listed(config: Mapping[str, Any]) -> tuple[str, ...]:
    listed = config.get("architectures")
    return tuple(map(str, listed)) if isinstance(listed, list) else ()
