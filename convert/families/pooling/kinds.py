"""Models whose hidden states are pooled: how their configs tell, and decoders under the names that they have then.

sentence-transformers keeps what becomes of hidden states in files beside config.json (modules.json and those of its
modules); their contents travel in the config under `FILES_KEY`, those of tokenizer_config.json under `TOKENIZER_KEY`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from inflight.convert.families.family import Family
from inflight.convert.families.names import Names

FILES_KEY = "sentence_transformers_files"
TOKENIZER_KEY = "tokenizer_config_file"
# Chat templates of a model that scores, by their names.
TEMPLATES_KEY = "chat_templates"
# Tokens by whose logits a generator scores, {token: id}, that of a relevant pair first, where somebody named them.
TOKENS_KEY = "score_tokens"
# The texts of such tokens, in their order, null for one that the tokenizer has no word for.
TOKEN_TEXTS_KEY = "score_token_texts"
# Keys that stand for other files than config.json, which may not have them itself.
KEYS_OF_FILES = (FILES_KEY, TOKENIZER_KEY, TEMPLATES_KEY, TOKENS_KEY, TOKEN_TEXTS_KEY)
# The module that names such tokens.
LOGIT_SCORE = "LogitScore"
CLASSIFIER, TOKEN_CLASSIFIER = "ForSequenceClassification", "ForTokenClassification"
# Model types whose tokens see all others, and which have no decoder besides.
_ENCODER_TYPES = (
    *("bert", "roberta", "xlm-roberta", "camembert", "distilbert"),
    *("electra", "mpnet", "modernbert", "albert", "nomic_bert", "gte", "new", "eurobert", "jina_embeddings_v3"),
    *("deberta", "deberta-v2"),
)
# Jina's second generation, whose configs say that they are BERT's.
JINA2, _JINA2_NAME = "jina_bert", "JinaBert"
# Files of a model without a head have no name in front.
_BARE = tuple((name, f"model.{name}") for name in ("embed_tokens.", "layers.", "norm."))


def encoder_type(config: Mapping[str, Any]) -> Any:
    """The model_type of an encoder's row."""
    listed = _listed(config)
    return JINA2 if listed and all(name.startswith(_JINA2_NAME) for name in listed) else config.get("model_type")


def pools(config: Mapping[str, Any]) -> bool:
    """Whether a Hugging Face config is that of a model whose hidden states are pooled."""
    listed = _listed(config)
    bare = any(map(_is_bare, listed))
    return bool(FILES_KEY in config or bare or classifies(config) or config.get("model_type") in _ENCODER_TYPES)


def classifies(config: Mapping[str, Any]) -> bool:
    """Whether a product on top of a hidden state yields scores."""
    listed = _listed(config)
    return any(name.endswith(CLASSIFIER) for name in listed) or scores_by_tokens(config) or classifies_tokens(config)


def classifies_tokens(config: Mapping[str, Any]) -> bool:
    """Whether each token is classified."""
    return any(name.endswith(TOKEN_CLASSIFIER) for name in _listed(config))


def scores_by_tokens(config: Mapping[str, Any]) -> bool:
    """Whether a generator scores a pair by the logits of one or two tokens behind it."""
    modules = config.get(FILES_KEY, {}).get("modules", ())
    return TOKENS_KEY in config or any(each["type"].rpartition(".")[2] == LOGIT_SCORE for each in modules)


def classifier_pooling(config: Mapping[str, Any], family: Family) -> str | None:
    """What the classifier of a family that has a choice reads; None: it has none."""
    if not family.classifier_pooling or not classifies(config) or classifies_tokens(config):
        return None
    named = config.get("classifier_pooling")
    return str(family.defaults["classifier_pooling"] if named is None else named)


def names_of_head(config: Mapping[str, Any], family: Family) -> Names:
    """`family.names`, with the one product that a classifier of tokens ends with, where it does."""
    if not classifies_tokens(config) or family.token_head or "classifier.out" not in family.names:
        return family.names
    heads = ("classifier.dense", "classifier.norm", "classifier.out")
    (out,) = family.names["classifier.out"]
    return {
        **{name: modules for name, modules in family.names.items() if name not in heads},
        "classifier.out": (out if out == "score" else "classifier",),
    }


def behind_pooling(config: Mapping[str, Any], family: Family) -> Names:
    """The modules of a classifier that reads a mean, as products behind pooling."""
    if classifier_pooling(config, family) != "mean":
        return {}
    modules = {"classifier.dense": "0", "classifier.norm": "0.norm", "classifier.out": "1"}
    return {f"pooling.dense.{place}": family.names[name] for name, place in modules.items() if name in family.names}


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


def missing(config: Mapping[str, Any], *, encoder: bool) -> str | None:
    """What a model needs that pools hidden states and is not read; None where nothing is known. `encoder`: those of its
    model_type have a row."""
    if scores_by_tokens(config) and "vision_config" in config:
        return "pairs of pictures"
    if scores_by_tokens(config):
        return "modules that are named as Llama's, where scores are read off its logits"
    if encoder:
        return "what becomes of its hidden states; with modules.json, of sentence-transformers, it embeds"
    return None


def _is_bare(name: str) -> bool:
    """Whether an architecture is that of a model without a head, which GPT2LMHeadModel is not."""
    return name.endswith("Model") and not name.endswith(("HeadModel", "HeadsModel"))


def _listed(config: Mapping[str, Any]) -> tuple[str, ...]:
    listed = config.get("architectures")
    return tuple(map(str, listed)) if isinstance(listed, list) else ()
