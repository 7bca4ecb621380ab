"""What a classifier makes of pooled hidden states: its labels, its numbers, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.convert.checkpoint.pooling import DenseRecord, Pooling, PoolingRecord, ScoreTokenRecord
from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family
from inflight.convert.families.pooling.kinds import (
    CLASSIFIER,
    FILES_KEY,
    TOKEN_TEXTS_KEY,
    classifier_pooling,
    classifies_tokens,
    scores_by_tokens,
)
from inflight.convert.families.pooling.logit_score import token_ids
from inflight.convert.families.pooling.pair_template import read_pair_template
from inflight.convert.families.pooling.typed import is_count, shown

# What a classifier reads, of what the key classifier_pooling may say. "late": scores of all tokens have a mean.
_READ: Mapping[str, Pooling] = {"cls": "cls", "bos": "cls", "mean": "mean", "late": "mean"}
# What may become of scores, by the names of torch (the last of several labels alone) and of the problems that configs
# may name.
_SCORES = {"Identity": "identity", "Sigmoid": "sigmoid", "Softmax": "softmax"}
_OF_PROBLEMS = {"regression": "identity", "multi_label_classification": "sigmoid"}
_GENERATES_NOT = "scores by tokens are those of a model that generates, which this one does not"
# More than any classifier has.
MOST_LABELS = 1 << 16
# Where the config of a cross-encoder names what becomes of its scores.
_ACTIVATION_KEY = "sbert_ce_default_activation_function"


def read_classifier(values: ConfigValues, raw: Mapping[str, Any], family: Family) -> PoolingRecord:
    """What becomes of the hidden states of a classifier; problems go to `values`."""
    if "classifier.out" not in family.names:
        values.problems.append(f"classifiers of {family.model_type} are not supported: how they end is not read")
        values.shapes_known = False
    if classifies_tokens(raw):
        return _of_tokens(values, raw)
    by_tokens = scores_by_tokens(raw)
    tokens = _score_tokens(values, raw, family) if by_tokens else ()
    names = ("LABEL_0",) if by_tokens else _label_names(values, raw)
    named_pooling = classifier_pooling(raw, family)
    if named_pooling is not None and named_pooling not in family.classifier_pooling:
        known = ", ".join(family.classifier_pooling)
        values.problems.append(f"classifier_pooling {named_pooling!r} is not supported (supported: {known})")
    usual: Pooling = "cls" if family.encoder else "last"
    behind = named_pooling == "mean"
    return PoolingRecord(
        task="score" if len(names) == 1 else "classify",
        pooling=usual if named_pooling is None else _READ.get(named_pooling, usual),
        dense=_head(values, family, len(names)) if behind else (),
        labels=None if behind else len(names),
        label_names=names,
        activation=_activation(values, raw, len(names)),
        pair_template=read_pair_template(raw, values.problems) if len(names) == 1 else None,
        score_tokens=tokens,
    )


def _of_tokens(values: ConfigValues, raw: Mapping[str, Any]) -> PoolingRecord:
    """Of a classifier of single tokens."""
    names = _label_names(values, raw)
    if scores_by_tokens(raw):
        values.problems.append(_GENERATES_NOT)
    if raw.get("token_classification_bias") not in (None, True):
        values.problems.append("token_classification_bias false is not supported: the product has a bias")
    return PoolingRecord(
        task="token_classify",
        pooling="none",
        labels=len(names),
        label_names=names,
        activation=_activation(values, raw, len(names)),
    )


def _score_tokens(values: ConfigValues, raw: Mapping[str, Any], family: Family) -> tuple[ScoreTokenRecord, ...]:
    """Scores by tokens are those of a model that generates."""
    ids = token_ids(raw, values.problems)
    if family.encoder or any(str(name).endswith(CLASSIFIER) for name in raw.get("architectures") or ()):
        values.problems.append(_GENERATES_NOT)
    texts = raw.get(TOKEN_TEXTS_KEY) or [None] * len(ids)
    return tuple(ScoreTokenRecord(id=each, token=text) for each, text in zip(ids, texts, strict=True))


def _label_names(values: ConfigValues, raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of id2label, by their numbers; transformers has two where the config has no word of them."""
    listed, count = raw.get("id2label"), raw.get("num_labels")
    if listed is not None and not _names_labels(listed):
        values.problems.append(f"id2label must be an object that names labels by number, not {shown(listed)}")
        listed = None
    if count is None:
        count = 2 if listed is None else len(listed)
    if not is_count(count) or count > MOST_LABELS:
        values.problems.append(f"num_labels must be a number of labels up to {MOST_LABELS}, not {shown(count)}")
        return ("LABEL_0",)
    found = {str(key): str(name) for key, name in (listed or {}).items()}
    numbers = [str(index) for index in range(count)]
    if found and {*found} != {*numbers}:
        values.problems.append(f"id2label must name the labels 0 to {count - 1}; it names {shown(', '.join(found))}")
    return tuple(found.get(number, f"LABEL_{number}") for number in numbers)


def _names_labels(listed: Any) -> bool:
    return isinstance(listed, dict) and all(isinstance(name, str | int | float) for name in listed.values())


def _activation(values: ConfigValues, raw: Mapping[str, Any], count: int) -> Any:
    """What becomes of a classifier's numbers: as sentence-transformers has it, or as pipelines of transformers have it
    by the problem that the model was trained for."""
    beside = (raw.get(FILES_KEY) or {}).get("prompts")
    blocks = [block for block in (beside, raw.get("sentence_transformers")) if isinstance(block, dict)]
    named = next(
        (found for block in blocks if (found := block.get("activation_fn")) is not None), raw.get(_ACTIVATION_KEY)
    )
    if named is None:
        usual = "sigmoid" if count == 1 else "softmax"
        return usual if count == 1 else _OF_PROBLEMS.get(str(raw.get("problem_type")), usual)
    function, known = str(named).rpartition(".")[2], [*_SCORES][: 2 if count == 1 else None]
    if function not in known:
        values.problems.append(f"the activation {shown(named)} of scores is not supported: {' and '.join(known)} are")
    return _SCORES.get(function, "identity")


def _head(values: ConfigValues, family: Family, labels: int) -> tuple[DenseRecord, ...]:
    """The two products of a classifier that reads a mean, which follow what no network has."""
    hidden = values.count("hidden_size")
    normed = "classifier.norm" in family.names
    epsilon = values.number(str(family.norm_epsilon), 1e-5) if normed else None
    kind: Any = family.classifier_activation
    first = DenseRecord(inputs=hidden, outputs=hidden, bias=not normed, activation=kind, norm_epsilon=epsilon)
    return first, DenseRecord(inputs=hidden, outputs=labels, bias=True, activation="identity")
