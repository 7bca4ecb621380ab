"""The bodies of POST /v1/embeddings, /v1/rerank, /score and /classify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.protocol.values import (
    TEXTS_OR_IDS,
    Body,
    Refused,
    described,
    refused_fields,
    string_or,
)

REFUSED_IN_EMBEDDINGS: dict[str, Refused] = {
    "messages": Refused("embeddings of conversations; send text as input"),
    "embed_dtype": Refused("numbers of other types", ("float32",)),
    "endianness": Refused("numbers of another order", ("native", "little")),
    "priority": Refused("priorities of embeddings"),
    "mm_processor_kwargs": Refused("images, audio or video"),
}
REFUSED_IN_RERANK: dict[str, Refused] = {
    "rank_fields": Refused("documents of several fields; send their text", (["text"],)),
    "max_chunks_per_doc": Refused("documents in chunks", (1,)),
    "max_tokens_per_doc": Refused("a limit of a document's own; truncate_prompt_tokens is that of query and document"),
    "priority": Refused("priorities of scores"),
    "mm_processor_kwargs": Refused("images, audio or video"),
}
REFUSED_IN_CLASSIFY: dict[str, Refused] = {
    "messages": Refused("classes of conversations; send text as input"),
    "priority": Refused("priorities of classifications"),
    "mm_processor_kwargs": Refused("images, audio or video"),
}
REFUSED_IN_SCORE: dict[str, Refused] = {
    "priority": Refused("priorities of scores"),
    "mm_processor_kwargs": Refused("images, audio or video"),
}

if TYPE_CHECKING:
    _RefusingClassify = Body
    _RefusingEmbedding = Body
    _RefusingRerank = Body
    _RefusingScore = Body
else:
    _RefusingClassify = create_model("_RefusingClassify", __base__=Body, **refused_fields(REFUSED_IN_CLASSIFY))
    _RefusingEmbedding = create_model("_RefusingEmbedding", __base__=Body, **refused_fields(REFUSED_IN_EMBEDDINGS))
    _RefusingRerank = create_model("_RefusingRerank", __base__=Body, **refused_fields(REFUSED_IN_RERANK))
    _RefusingScore = create_model("_RefusingScore", __base__=Body, **refused_fields(REFUSED_IN_SCORE))


if TYPE_CHECKING:
    _Texts = str | list[str]
else:
    # Not a union, whose errors would name the types that it tried as if they were keys.
    _Texts = Annotated[list[str], string_or("strings")]


class EmbeddingBody(_RefusingEmbedding):
    """POST /v1/embeddings, with vLLM's `truncate_prompt_tokens` and `add_special_tokens` and TEI's `prompt_name`.

    `user` and `request_id` label a request and change no answer.
    """

    model: str | None = None
    input: Annotated[str | list[int] | list[str] | list[list[int]], described(TEXTS_OR_IDS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    add_special_tokens: bool = True
    prompt_name: str | None = None
    user: str | None = None
    request_id: str | None = Field(None, max_length=256)

    def inputs(self) -> list[str | list[int]]:
        """The texts, in order; each is text or token ids."""
        return _texts_or_ids(self.input)

    def is_listed(self) -> bool:
        """Whether `input` is a list of inputs, and no single one."""
        return _is_listed(self.input)


class ClassifyBody(_RefusingClassify):
    """POST /classify as vLLM has it. `use_activation` false: the classifier's numbers as they are; `activation` is its
    older name."""

    model: str | None = None
    input: Annotated[str | list[int] | list[str] | list[list[int]], described(TEXTS_OR_IDS)]
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    add_special_tokens: bool = True
    use_activation: bool | None = None
    activation: bool | None = None
    user: str | None = None
    request_id: str | None = Field(None, max_length=256)

    def inputs(self) -> list[str | list[int]]:
        """The texts, in order; each is text or token ids."""
        return _texts_or_ids(self.input)

    def is_listed(self) -> bool:
        """Whether `input` is a list of inputs, and no single one."""
        return _is_listed(self.input)


def _is_listed(given: str | list[int] | list[str] | list[list[int]]) -> bool:
    return isinstance(given, list) and not all(isinstance(item, int) for item in given)


def _texts_or_ids(given: str | list[int] | list[str] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    if given and not _is_listed(given):
        return [[item for item in given if isinstance(item, int)]]
    return [item for item in given if not isinstance(item, int)]


class Document(BaseModel):
    """A document as an object, as Jina's and Cohere's APIs take it too. What it has beside its text is not read, and
    comes back with it."""

    model_config = ConfigDict(extra="allow", strict=True)

    text: str


class RerankBody(_RefusingRerank):
    """POST /v1/rerank as Jina's, Cohere's and vLLM's APIs have it; with `texts` in place of `documents`, as TEI has it.

    `truncate`, `raw_scores` and `return_text` are TEI's. `instruction`, which SGLang calls `instruct`, is of models
    whose template has a place for one.
    """

    model: str | None = None
    query: str
    documents: list[str | Document] | None = None
    texts: list[str] | None = None
    top_n: int | None = Field(None, ge=0)
    return_documents: bool = True
    return_text: bool = False
    raw_scores: bool = False
    truncate: bool = False
    truncation_direction: Literal["right", "Right"] | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    instruction: str | None = None
    instruct: str | None = None
    user: str | None = None
    request_id: str | None = Field(None, max_length=256)

    @property
    def asked(self) -> str | None:
        """The instruction under either name. Raises ApiError (400) where both say another thing."""
        if self.instruct is not None and self.instruction not in (None, self.instruct):
            raise ApiError(400, "instruction and instruct are the same; give one.", param="instruct")
        return self.instruction if self.instruct is None else self.instruct


class ScoreBody(_RefusingScore):
    """POST /score as vLLM has it: a text or a list of them on either side, under the names of its versions, and the
    `instruction` of models whose template has a place for one."""

    model: str | None = None
    text_1: _Texts | None = None
    data_1: _Texts | None = None
    queries: _Texts | None = None
    text_2: _Texts | None = None
    data_2: _Texts | None = None
    documents: _Texts | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    instruction: str | None = None
    user: str | None = None
    request_id: str | None = Field(None, max_length=256)

    def sides(self) -> tuple[tuple[str, str | list[str]], tuple[str, str | list[str]]]:
        """The name and the texts of both sides. Raises ApiError (400) where one is missing or given twice."""
        return self._side("text_1", "data_1", "queries"), self._side("text_2", "data_2", "documents")

    def _side(self, *names: str) -> tuple[str, str | list[str]]:
        given = [(name, value) for name in names if (value := getattr(self, name)) is not None]
        if not given:
            raise ApiError(400, f"Missing required parameter: '{names[0]}'.", param=names[0])
        if len(given) > 1:
            raise ApiError(400, f"{given[0][0]} and {given[1][0]} are the same; give one.", param=given[1][0])
        return given[0]
