"""What an embedding model or a cross-encoder makes of the hidden states of a text, as its checkpoint records it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from inflight.convert.checkpoint.model_spec import PooledRows
from inflight.records import Record

Pooling = Literal["mean", "cls", "last", "max", "mean_sqrt_len", "weighted_mean", "none"]
# The hidden states that a pooling reads, unless they are those of all tokens: of the first, or of the last.
_ROWS: dict[Pooling, PooledRows] = {"cls": "first", "last": "last"}
DenseActivation = Literal["identity", "tanh", "relu", "gelu"]


class DenseRecord(Record):
    """A product of a pooled vector, with a bias or without: activation(weight x + bias), or where `norm_epsilon` is not
    None the LayerNorm of that, which has weights and no bias."""

    inputs: Annotated[int, Field(ge=1)]
    outputs: Annotated[int, Field(ge=1)]
    bias: bool
    activation: DenseActivation
    norm_epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class PairTemplate(Record):
    """A chat template, as Jinja source, that makes one text of a pair: messages of the roles query and document, behind
    one of the role system where there is an instruction. `origin`: whose it is, in words."""

    source: str
    add_generation_prompt: bool = False
    origin: str | None = None


class ScoreTokenRecord(Record):
    """A token by whose logit a generator scores pairs; `token` is its text, None where no tokenizer says it."""

    id: Annotated[int, Field(ge=0)]
    token: str | None = None


class PoolingRecord(Record):
    """docs/formats/embeddings.md explains the fields.

    `task`: "embed" makes a vector of a text, "score" a number of a pair of texts, "classify" numbers of several
    labels; "token_classify" numbers of the labels of each token, whose `pooling` is "none".
    `dense`: products that follow, one of the other. `normalize`: then vectors get length 1. `labels`: what the
    classifier yields of each row that is pooled; None: there is no classifier. `label_names`: of all numbers of a text.
    `activation`: what becomes of them. `max_length`: the most tokens of a text that the model was made for; None: as
    many as it has positions. `token_kinds`: the tokenizer tells the second text of a pair from the first; false: all
    tokens are of the first kind, in a model that has several too. `prompts` are put in front of texts by their names,
    `default_prompt` where a text names none; where there is a `pair_template`, it is the instruction of pairs that have
    none. `pair_template` None: the tokenizer joins the texts of a pair. `score_tokens`: of a generator that scores by
    tokens, that of a relevant pair first.
    """

    task: Literal["embed", "score", "classify", "token_classify"]
    pooling: Pooling
    dense: tuple[DenseRecord, ...] = ()
    normalize: bool = False
    labels: Annotated[int, Field(ge=1)] | None = None
    label_names: tuple[str, ...] = ()
    activation: Literal["identity", "sigmoid", "softmax"] = "identity"
    max_length: Annotated[int, Field(ge=1)] | None = None
    token_kinds: bool = True
    prompts: dict[str, str] = Field(default_factory=dict)
    default_prompt: str | None = None
    pair_template: PairTemplate | None = None
    score_tokens: Annotated[tuple[ScoreTokenRecord, ...], Field(max_length=2)] = ()

    @property
    def rows(self) -> PooledRows:
        return _ROWS.get(self.pooling, "all")
