"""What tokenizer_config.json says of a model that pools: how long texts may be, and whether it tells the second text
of a pair from the first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from inflight.convert.checkpoint.config import MAX_SIZE
from inflight.convert.families.pooling.files import TOKENIZER
from inflight.convert.families.pooling.kinds import TOKENIZER_KEY
from inflight.convert.families.pooling.typed import TEXT, TEXTS, Kind, typed

_LENGTH = "model_max_length"
# A length may be 1e30, which stands for none.
_KINDS: Mapping[str, Kind] = {
    "model_input_names": TEXTS,
    "tokenizer_class": TEXT,
    _LENGTH: Kind("a positive integer", lambda value: _is_whole(value) and value > 0),
}
# Classes of transformers that give token_type_ids where nothing says which inputs there are.
_GIVE_KINDS = frozenset(
    f"{name}Tokenizer"
    for name in (
        *("Bert", "Electra", "MobileBert", "SqueezeBert", "ConvBert", "Lxmert", "LayoutLM", "FNet"),
        *("Deberta", "DebertaV2", "DPRContextEncoder", "DPRQuestionEncoder"),
    )
)
# Model types that have such a class where no file names one.
_TYPES_THAT_GIVE_KINDS = ("bert", "electra", "nomic_bert", "distilbert")


def read_tokenizer(raw: Mapping[str, Any], problems: list[str]) -> tuple[int | None, bool]:
    """The most tokens of a text (None: no bound), and whether there are kinds of tokens, as transformers has both."""
    found = typed(raw.get(TOKENIZER_KEY) or {}, _KINDS, TOKENIZER, problems)
    length = found.get(_LENGTH)
    bound = None if length is None or length > MAX_SIZE else int(length)
    names = found.get("model_input_names")
    if names is not None:
        return bound, "token_type_ids" in names
    named = found.get("tokenizer_class") or raw.get("tokenizer_class")
    if named is None:
        return bound, raw.get("model_type") in _TYPES_THAT_GIVE_KINDS
    return bound, str(named).removesuffix("Fast") in _GIVE_KINDS


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value in (value // 1, math.inf)
