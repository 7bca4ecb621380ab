"""Generators that score a pair by the logits of one or two tokens behind it, as Qwen3-Reranker does: which tokens, and
their rows of the vocabulary projection as a classifier of one label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inflight.convert.families.family import Family
from inflight.convert.families.pooling.kinds import FILES_KEY, LOGIT_SCORE, TOKENS_KEY, scores_by_tokens
from inflight.convert.families.pooling.typed import TEXT, Kind, shown, typed
from inflight.convert.source.tensor import Array, GroupLevels, LevelForm, Seen, SourceTensor
from inflight.dtypes import numpy_dtype
from inflight.errors import ModelError

_TRUE, _FALSE, _INPUT = "true_token_id", "false_token_id", "module_input_name"
_OUTPUT = "causal_logits"
_ID = Kind("a token id", lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0)
_KINDS: Mapping[str, Kind] = {_TRUE: _ID, _FALSE: _ID, _INPUT: TEXT}
_SCORE = "score.weight"


def token_ids(config: Mapping[str, Any], problems: list[str]) -> tuple[int, ...]:
    """The token whose logit is the score, or the two whose logits' difference is: that of a relevant pair first. Empty
    where there are none, or where what says so cannot be followed; problems go to `problems`."""
    if TOKENS_KEY in config:
        return tuple(config[TOKENS_KEY].values())
    if not scores_by_tokens(config):
        return ()
    files = config[FILES_KEY]
    path = next(each["path"] for each in files["modules"] if each["type"].rpartition(".")[2] == LOGIT_SCORE)
    file = f"{path}/config.json"
    raw = files["configs"].get(path, {})
    found = typed(raw, _KINDS, file, problems)
    if found.get(_INPUT, _OUTPUT) != _OUTPUT:
        problems.append(f"{_INPUT} {shown(found[_INPUT])} of {file} is not supported: {_OUTPUT} is")
    if _TRUE not in found:
        if raw.get(_TRUE) is None and path in files["configs"]:
            problems.append(f"{file} has no {_TRUE}")
        return ()
    return tuple(found[key] for key in (_TRUE, _FALSE) if key in found)


def with_score_row(
    model: str, config: Mapping[str, Any], family: Family | None, tensors: Mapping[str, SourceTensor]
) -> Mapping[str, SourceTensor]:
    """`tensors` with the classifier of one label that these tokens make of the vocabulary projection. Raises ModelError
    for a token that has no row there, and for a projection with a bias, which a classifier here has not."""
    ids = token_ids(config, [])
    if family is None or not ids:
        return tensors
    table = tensors.get(family.tied) or tensors.get(f"{family.names['vocab_embedding'][0]}.weight")
    if table is None or len(table.shape) != 2:
        return tensors
    beyond = [each for each in ids if each >= table.shape[0]]
    if beyond:
        raise ModelError(
            f"{model} scores by the token {beyond[0]}, and its vocabulary projection has {table.shape[0]} rows.",
            "Name tokens of its vocabulary: --score-tokens.",
        )
    if (bias := family.tied.replace(".weight", ".bias")) in tensors:
        raise ModelError(f"{model} cannot score by tokens: its vocabulary projection has a bias, {bias}.")
    return {**tensors, _SCORE: ScoreRow(_SCORE, table, ids)}


class ScoreRow(Seen):
    """[1, hidden]: a row of a table, or the difference of two, each rounded once to the type of the table."""

    def __init__(self, name: str, table: SourceTensor, ids: Sequence[int]) -> None:
        super().__init__(name, table)
        self._ids = ids
        self.shape = (1, table.shape[1])

    @property
    def nbytes(self) -> int:
        return self._inner.nbytes * len(self._ids) // self._inner.shape[0]

    def rows(self, start: int, stop: int) -> Array:
        first, *other = (self._inner.rows(each, each + 1).astype(np.float32) for each in self._ids)
        row = first - other[0] if other else first
        return row.astype(numpy_dtype(self.dtype))[start:stop]

    def levels(self, start: int, stop: int) -> GroupLevels | None:
        return None

    @property
    def form(self) -> LevelForm | None:
        return None
