"""The bodies of POST /v1/rerank and /score, in the words of Jina, Cohere, vLLM, TEI and SGLang."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.protocol.pooling import REFUSED_OF_TEXTS, Activated
from inflight.triton_backend.openai.protocol.values import Body, Refused, described, refused_fields, string_or

REFUSED_IN_RERANK: dict[str, Refused] = {
    "rank_fields": Refused("documents of several fields; send their text", (["text"],)),
    "max_chunks_per_doc": Refused("documents in chunks", (1,)),
    "priority": Refused("priorities of scores"),
    **REFUSED_OF_TEXTS,
}
REFUSED_IN_SCORE: dict[str, Refused] = {
    "priority": Refused("priorities of scores"),
    "return_pooled_hidden_states": Refused("hidden states beside scores"),
    "embed_override_token_id": Refused("embeddings in the place of tokens", even_empty=True),
    "query_embed_overrides": Refused("embeddings in the place of tokens"),
    "item_embed_overrides": Refused("embeddings in the place of tokens"),
    **REFUSED_OF_TEXTS,
}


def _joined(value: Any) -> Any:
    """The text of a list of parts, joined as SGLang does it."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            what = f"parts of type {kind}" if isinstance(kind, str) and kind != "text" else "such a part"
            raise ValueError(f'this server does not support {what} of a query or document: {{"type": "text"}} alone')
        texts.append(part["text"])
    return " ".join(texts)


class Document(BaseModel):
    """A document as an object, as Jina's and Cohere's APIs take it too. What it has beside its text is not read, and
    comes back with it."""

    model_config = ConfigDict(extra="allow", strict=True)

    text: str


if TYPE_CHECKING:
    _Document = str | Document
    _Query = str
    _RefusingRerank = Body
    _RefusingScore = Body
    _Texts = str | list[str]
    _TextsOrIds = str | list[str] | list[list[int]]
else:
    _Document = Annotated[str | Document, BeforeValidator(_joined)]
    _Query = Annotated[str, BeforeValidator(_joined)]
    _RefusingRerank = create_model("_RefusingRerank", __base__=Body, **refused_fields(REFUSED_IN_RERANK))
    _RefusingScore = create_model("_RefusingScore", __base__=Body, **refused_fields(REFUSED_IN_SCORE))
    # Not a union, whose errors would name the types that it tried as if they were keys.
    _Texts = Annotated[list[str], string_or("strings")]
    _TextsOrIds = Annotated[str | list[str] | list[list[int]], described("strings, or lists of token ids")]

_OneOrIds = Annotated[str | list[int], described("a string, or a list of token ids")]


class _Instructed(Activated):
    """`instruction`, which SGLang calls `instruct`, is of models whose template has a place for one. So many tokens
    are kept of each query and document as `max_tokens_per_query` and `max_tokens_per_doc` say, 0 for all, before they
    are put together."""

    instruction: str | None = None
    instruct: str | None = None
    max_tokens_per_query: int | None = Field(None, ge=0)
    max_tokens_per_doc: int | None = Field(None, ge=0)
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    user: str | None = None
    cache_salt: str | None = None
    request_id: str | None = Field(None, max_length=256)

    @property
    def asked(self) -> str | None:
        """The instruction under either name. Raises ApiError (400) where both say another thing."""
        if self.instruct is not None and self.instruction not in (None, self.instruct):
            raise ApiError(400, "instruction and instruct are the same; give one.", param="instruct")
        return self.instruction if self.instruct is None else self.instruct


class RerankBody(_Instructed, _RefusingRerank):
    """POST /v1/rerank as Jina's, Cohere's, vLLM's and SGLang's APIs have it; with `texts` in place of `documents`, as
    TEI has it. A text may be a list of parts, of text alone.

    `truncate`, `raw_scores` and `return_text` are TEI's.
    """

    model: str | None = None
    query: _Query
    documents: list[_Document] | None = None
    texts: list[str] | None = None
    top_n: int | None = Field(None, ge=0)
    return_documents: bool = True
    return_text: bool = False
    raw_scores: bool = False
    truncate: bool = False
    truncation_direction: Literal["right", "Right"] | None = None


class ScoreBody(_Instructed, _RefusingScore):
    """POST /score as vLLM has it: a text or a list of them on either side, under the names of its versions. With
    `query` it is SGLang's: see label_scores.py."""

    model: str | None = None
    text_1: _Texts | None = None
    data_1: _Texts | None = None
    queries: _Texts | None = None
    text_2: _Texts | None = None
    data_2: _Texts | None = None
    documents: _Texts | None = None
    query: _OneOrIds | None = None
    items: _TextsOrIds | None = None
    label_token_ids: list[int] | None = None
    apply_softmax: bool = False
    item_first: bool = False

    def sides(self) -> tuple[tuple[str, str | list[str]], tuple[str, str | list[str]]]:
        """The name and the texts of both sides. Raises ApiError (400) where one is missing or given twice."""
        for name in ("label_token_ids", "apply_softmax", "item_first"):
            if getattr(self, name):
                raise ApiError(400, f"{name} is of scores of a query and items, as SGLang has them.", param=name)
        first, second = self._side("text_1", "data_1", "queries"), self._side("text_2", "data_2", "documents", "items")
        if not isinstance(second[1], str) and not all(isinstance(each, str) for each in second[1]):
            raise ApiError(400, "items of token ids need a query of token ids.", param="items")
        return first, second

    def _side(self, *names: str) -> tuple[str, str | list[str]]:
        given = [(name, value) for name in names if (value := getattr(self, name)) is not None]
        if not given:
            raise ApiError(400, f"Missing required parameter: '{names[0]}'.", param=names[0])
        if len(given) > 1:
            raise ApiError(400, f"{given[0][0]} and {given[1][0]} are the same; give one.", param=given[1][0])
        return cast("tuple[str, str | list[str]]", given[0])
