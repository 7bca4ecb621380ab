"""The bodies of Ollama's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model

from inflight.triton_backend.openai.protocol.refusals import MEDIA
from inflight.triton_backend.openai.protocol.values import Body, Refused, described, refused_fields, string_or

_REFUSED_OPTIONS = {
    "mirostat": Refused("Mirostat sampling"),
    "tfs_z": Refused("tail-free sampling", (1, 1.0)),
    "embedding_only": Refused("engines that only embed by an option; build one of an embedding model"),
    "vocab_only": Refused("loading a vocabulary alone"),
}

_IMAGES = {name: Refused(MEDIA) for name in ("images", "width", "height", "steps")}
_REFUSED_IN_GENERATE = {
    **_IMAGES,
    "suffix": Refused("text that follows the answer"),
    "template": Refused("a template of the client; the model's own is used, or none with raw"),
}

# Options that say how a model is loaded and computed, which was decided when the engine was built and serving began;
# and those of samplers that are off.
_WITHOUT_EFFECT = (
    "numa",
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "low_vram",
    "f16_kv",
    "logits_all",
    "use_mmap",
    "use_mlock",
    "num_thread",
    "num_keep",
    "repeat_last_n",
    "mirostat_tau",
    "mirostat_eta",
    "penalize_newline",
)

if TYPE_CHECKING:
    _OtherOptions = Body
    _RefusingMessage = Body
    Strings = str | list[str]
else:
    _OtherOptions = create_model(
        "_OtherOptions",
        __base__=Body,
        **refused_fields(_REFUSED_OPTIONS),
        **dict.fromkeys(_WITHOUT_EFFECT, (Any, None)),
    )
    _RefusingMessage = create_model("_RefusingMessage", __base__=Body, images=refused_fields(_IMAGES)["images"])
    Strings = Annotated[list[str], string_or("strings")]


class Options(_OtherOptions):
    """What is asked of sampling. `num_predict` below 1: as many tokens as there is room for."""

    num_predict: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: Strings | None = None

    def chat_fields(self) -> dict[str, Any]:
        """In OpenAI's names."""
        own = ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty", "seed", "stop")
        return {
            **{name: getattr(self, name) for name in own},
            "typical_p": self.typical_p,
            "repetition_penalty": self.repeat_penalty,
            "max_tokens": self.num_predict if (self.num_predict or 0) > 0 else None,
        }


Format = Annotated[Literal["", "json"] | dict[str, Any], described('"json" or a JSON schema')]
Think = Annotated[bool | Literal["low", "medium", "high"], described("true, false, or one of low, medium and high")]


class ModelBody(Body):
    """`keep_alive` has no effect: the model stays. `name` is the older name of `model`."""

    model: str | None = None
    name: str | None = None
    keep_alive: Any = None
    options: Options = Field(default_factory=Options)

    @property
    def unloads(self) -> bool:
        """Whether the model is told to go, which it does not."""
        return self.keep_alive in (0, "0", "0s", "0m")


class GenerationFields(ModelBody):
    """What chat and generate have in common."""

    stream: bool = True
    format: Format | None = None
    think: Think | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    truncate: Any = None
    shift: Any = None


class CalledFunction(Body):
    name: str
    arguments: dict[str, Any] | None = None
    index: int | None = None
    description: Any = None


class ToolCall(Body):
    id: str | None = None
    type: str | None = None
    function: CalledFunction


class Message(_RefusingMessage):
    role: str
    content: str | None = None
    thinking: str | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatBody(GenerationFields):
    """POST /api/chat. Without messages it loads the model, which is there."""

    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None


if TYPE_CHECKING:
    _RefusingGenerate = GenerationFields
else:
    _RefusingGenerate = create_model(
        "_RefusingGenerate", __base__=GenerationFields, **refused_fields(_REFUSED_IN_GENERATE)
    )


class GenerateBody(_RefusingGenerate):
    """POST /api/generate. `context`: the tokens of earlier prompts and answers, as an answer gave them. `raw`: the
    prompt is taken as it is."""

    prompt: str | None = None
    system: str | None = None
    context: list[int] | None = None
    raw: bool = False


class ShowBody(ModelBody):
    verbose: bool | None = None
    system: Any = None
    template: Any = None


class PullBody(ModelBody):
    """POST /api/pull."""

    insecure: bool | None = None
    stream: bool = True


class EmbedBody(ModelBody):
    """POST /api/embed. Texts that are too long are cut off at their end, unless `truncate` is false."""

    input: Strings
    truncate: bool = True
    dimensions: int | None = Field(None, ge=1)


class EmbeddingsBody(ModelBody):
    """POST /api/embeddings, the older route."""

    prompt: str
