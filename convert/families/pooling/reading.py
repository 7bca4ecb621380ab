"""What becomes of hidden states, and which tokens the tokens of a decoder see, as a whole model says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from inflight.convert.checkpoint.pooling import PoolingRecord
from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family
from inflight.convert.families.pooling.classifier import read_classifier
from inflight.convert.families.pooling.files import MODULES
from inflight.convert.families.pooling.kinds import FILES_KEY, classifies
from inflight.convert.families.pooling.sentence_transformers import FileReader
from inflight.convert.families.pooling.tokenizer import read_tokenizer


def read_pooling(values: ConfigValues, raw: Mapping[str, Any], family: Family) -> PoolingRecord:
    """What becomes of the hidden states of a model for which `kinds.pools` is true; problems go to `values`."""
    values.problems.extend(_code_problems(raw, family))
    bound, kinds = read_tokenizer(raw, values.problems)
    record = _record(values, raw, family)
    # Where a file of its own says nothing, sentence-transformers has the tokenizer's length.
    return record.model_copy(update={"max_length": record.max_length or bound, "token_kinds": kinds})


def _record(values: ConfigValues, raw: Mapping[str, Any], family: Family) -> PoolingRecord:
    """All but what the tokenizer says."""
    files = raw.get(FILES_KEY)
    reader = None if files is None else FileReader(files, values.problems)
    if classifies(raw):
        record = read_classifier(values, raw, family)
        return record if reader is None else reader.classifier(record)
    if reader is None:
        if not family.encoder:
            values.problems.append(
                f"it has no {MODULES}, which says how hidden states become a vector: save the model with "
                "sentence-transformers"
            )
        return PoolingRecord(task="embed", pooling="mean")
    size = values.raw.get("hidden_size")
    record = reader.record(size)
    for each in record.dense:
        if each.inputs != size:
            values.problems.append(f"Dense takes {each.inputs} numbers and gets {size}")
        size = each.outputs
    return record


def sees_all(values: ConfigValues, raw: Mapping[str, Any], family: Family, *, windows: bool) -> bool:
    """Whether the tokens of a decoder that pools see all others: where its own key says so, or is_causal is false,
    which models say whose own code has it so. `windows`: some layers have one. Problems go to `values`."""
    if family.encoder:
        return False
    key = "use_bidirectional_attention"
    if family.bidirectional != key:
        values.refuse(key, "the tokens of this family see those before them")
    causal = raw.get("is_causal")
    if causal not in (None, True, False):
        values.problems.append(f"is_causal must be true or false, not {causal!r}")
    if causal is False and windows:
        values.problems.append(
            "is_causal false is not supported beside windows, of which it does not say how they look"
        )
    return causal is False or (family.bidirectional is not None and values.flag(family.bidirectional))


def _code_problems(raw: Mapping[str, Any], family: Family) -> Iterator[str]:
    """Models that pool with code of their own, which may compute another thing than the class of their name."""
    code = raw["auto_map"] if isinstance(raw.get("auto_map"), dict) else {}
    classes = [str(where) for name, where in code.items() if name not in ("AutoConfig", "AutoTokenizer")]
    if not classes or family.carries_code or family.own_code:
        return
    if family.encoder:
        yield f"auto_map names code of the model's own ({classes[0]}), which is not run"
    elif raw.get("is_causal") is None:
        yield (
            f"auto_map names code of the model's own ({classes[0]}), which is not run: say in config.json what "
            'it does, "is_causal": false where tokens see all others, and true where they see those before them'
        )
