"""The bodies of POST /v1/embeddings, /classify and /pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, create_model

from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.protocol.values import (
    TEXTS_OR_IDS,
    Body,
    Refused,
    described,
    refused_fields,
)

# What vLLM takes in all bodies of models that pool. Nothing is cached of a text, so that a salt changes nothing.
REFUSED_OF_TEXTS: dict[str, Refused] = {
    "truncation_side": Refused("tokens that are kept from the end", ("right",)),
    "padding": Refused("texts that are filled up", ("do_not_pad",)),
    "mm_processor_kwargs": Refused("images, audio or video"),
}
REFUSED_IN_EMBEDDINGS: dict[str, Refused] = {
    "messages": Refused("embeddings of conversations; send text as input"),
    "embed_dtype": Refused("numbers of other types", ("float32",)),
    "endianness": Refused("numbers of another order", ("native", "little")),
    "priority": Refused("priorities of embeddings"),
    **REFUSED_OF_TEXTS,
}
REFUSED_IN_CLASSIFY: dict[str, Refused] = {
    "messages": Refused("classes of conversations; send text as input"),
    "priority": Refused("priorities of classifications"),
    **REFUSED_OF_TEXTS,
}
REFUSED_IN_POOLING: dict[str, Refused] = {
    **REFUSED_IN_EMBEDDINGS,
    "messages": Refused("vectors or classes of conversations; send text as input"),
    "data": Refused("plugins that read data"),
}


class Activated(Body):
    """`use_activation` false: a classifier's numbers as they are; `activation` is its older name."""

    use_activation: bool | None = None
    activation: bool | None = None

    @property
    def activated(self) -> bool | None:
        """The switch under either name. Raises ApiError (400) where both say another thing."""
        if self.activation is not None and self.use_activation not in (None, self.activation):
            raise ApiError(400, "use_activation and activation are the same; give one.", param="activation")
        return self.activation if self.use_activation is None else self.use_activation


if TYPE_CHECKING:
    _RefusingClassify = Body
    _RefusingPooling = Body
    _RefusingEmbedding = Body
else:
    _RefusingPooling = create_model("_RefusingPooling", __base__=Body, **refused_fields(REFUSED_IN_POOLING))
    _RefusingClassify = create_model("_RefusingClassify", __base__=Body, **refused_fields(REFUSED_IN_CLASSIFY))
    _RefusingEmbedding = create_model("_RefusingEmbedding", __base__=Body, **refused_fields(REFUSED_IN_EMBEDDINGS))


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
    cache_salt: str | None = None
    request_id: str | None = Field(None, max_length=256)

    def inputs(self) -> list[str | list[int]]:
        """The texts, in order; each is text or token ids."""
        return _texts_or_ids(self.input)

    def is_listed(self) -> bool:
        """Whether `input` is a list of inputs, and no single one."""
        return _is_listed(self.input)


class ClassifyBody(Activated, _RefusingClassify):
    """POST /classify as vLLM has it."""

    model: str | None = None
    input: Annotated[str | list[int] | list[str] | list[list[int]], described(TEXTS_OR_IDS)]
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    add_special_tokens: bool = True
    user: str | None = None
    cache_salt: str | None = None
    request_id: str | None = Field(None, max_length=256)

    def inputs(self) -> list[str | list[int]]:
        """The texts, in order; each is text or token ids."""
        return _texts_or_ids(self.input)

    def is_listed(self) -> bool:
        """Whether `input` is a list of inputs, and no single one."""
        return _is_listed(self.input)


class PoolingBody(Activated, _RefusingPooling):
    """POST /pooling as vLLM has it. `task`: what LLM.encode calls pooling_task; without one, what the engine is
    for."""

    model: str | None = None
    input: Annotated[str | list[int] | list[str] | list[list[int]], described(TEXTS_OR_IDS)]
    task: Literal["embed", "classify", "score", "token_embed", "token_classify"] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    add_special_tokens: bool = True
    user: str | None = None
    cache_salt: str | None = None
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
