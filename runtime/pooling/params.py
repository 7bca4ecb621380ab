"""Pooling parameters, under the names of vLLM's PoolingParams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from inflight.errors import RequestError
from inflight.runtime.loading.task import DOES

# What vLLM calls vectors of single tokens.
TOKEN_EMBED = "token_embed"
_TASKS = {
    "embed": ("embed", "embedding"),
    "score": ("classify", "score"),
    "classify": ("classify",),
    "token_classify": ("token_classify",),
}
_NUMBERS = ("truncate_prompt_tokens", "dimensions")
_SWITCHES = ("normalize", "softmax", "activation", "use_activation")


@dataclass(frozen=True, slots=True)
class PoolingParams:
    """What is made of a text. Raises RequestError for what no engine here makes.

    truncate_prompt_tokens: keep so many tokens of what is longer, the first ones, -1 for all that the engine takes.
    dimensions: the first so many numbers of a vector. normalize: give vectors the length 1; None: as the model's
    modules say. use_activation: scores as the model means them, False: as they come out of it; softmax and activation
    are its older names. task: embed, classify, score or token_classify, as the engine is for; of one that embeds
    LLM.encode makes the vectors of single tokens, too: token_embed. None: what the engine is for.
    skip_reading_prefix_cache has no effect, since no text is cached.
    """

    truncate_prompt_tokens: int | None = None
    dimensions: int | None = None
    normalize: bool | None = None
    softmax: bool | None = None
    activation: bool | None = None
    use_activation: bool | None = None
    step_tag_id: int | None = None
    returned_token_ids: list[int] | None = None
    task: str | None = None
    skip_reading_prefix_cache: bool | None = None

    def __post_init__(self) -> None:
        for kind, names, words in ((int, _NUMBERS, "an integer"), (bool, _SWITCHES, "True or False")):
            for name in names:
                value = getattr(self, name)
                if value is not None and type(value) is not kind:
                    raise RequestError(f"{name} is {value!r}; it must be {words}.")
        for name in ("step_tag_id", "returned_token_ids"):
            if getattr(self, name) is not None:
                raise RequestError(f"{name} is of models that reward steps, which are not there.", "Leave it out.")
        given = {each for each in (self.softmax, self.activation, self.use_activation) if each is not None}
        if len(given) > 1:
            raise RequestError("softmax, activation and use_activation are names of one setting and differ.")
        object.__setattr__(self, "use_activation", next(iter(given), None))

    def check(self, task: str, each_token: bool = False) -> None:
        """Raises RequestError for what is asked of an engine of another task. `each_token`: where vectors of single
        tokens may be asked for."""
        does = DOES[task]
        tasks = (*_TASKS[task], *([TOKEN_EMBED] if each_token and task == "embed" else []))
        if self.task is not None and self.task not in tasks:
            known = " and ".join(tasks)
            raise RequestError(f"task is {self.task!r}; this engine {does}: {known}.")
        for name in ("use_activation",) if task == "embed" else ("dimensions", "normalize"):
            if getattr(self, name) is not None:
                raise RequestError(f"{name} has no meaning for an engine that {does}.", "Leave it out.")


Given = PoolingParams | Sequence[PoolingParams] | None


def params_for_each(given: Given, count: int, **more: Any) -> list[PoolingParams]:
    """One for each of `count` texts: `given`, all or one for each, with what else the call says. Raises RequestError
    where that is not so many, or where both say another thing."""
    params = [given or PoolingParams()] * count if given is None or isinstance(given, PoolingParams) else given
    listed = isinstance(params, (list, tuple)) and all(isinstance(each, PoolingParams) for each in params)
    if not listed or len(params) != count:
        raise RequestError(f"pooling_params must be PoolingParams, or a list of {count}, one for each text.")
    for name, value in more.items():
        if value is not None:
            if any(getattr(each, name) not in (None, value) for each in params):
                raise RequestError(f"{name} is given twice, in pooling_params and beside it.")
            params = [replace(each, **{name: value}) for each in params]
    return list(params)
