"""The template that makes one text of a query and a document, for a model that was trained with one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from inflight.engine_format.manifest import PoolingFacts
from inflight.errors import RequestError
from inflight.runtime.text.chat.chat_template import ChatTemplate
from inflight.runtime.text.tokenizer import Tokenizer

# What stands for a text while the template shows where it puts it.
_QUERY, _DOCUMENT, _INSTRUCTION = "QUERY_OF_A_PAIR", "DOCUMENT_OF_A_PAIR", "INSTRUCTION_OF_A_PAIR"

_SYSTEM, _VARIABLES = "system", ("instruction", "instruct")


class Rendered(NamedTuple):
    """A text for the tokenizer; `special`: with its special tokens, which the template has not spelled out."""

    text: str
    special: bool


class Pair(NamedTuple):
    """Two texts, of which each may be cut, and what makes one of them."""

    texts: tuple[str, str]
    render: Callable[[str, str], Rendered]


class PairTemplate:
    """A chat template of two messages, whose roles are query and document, as sentence-transformers and vLLM have it.
    An instruction is the variable `instruction`, or `instruct` as SGLang calls it, and a message of the role system in
    front, unless the template goes by the places of messages.

    Every method raises RequestError for a template that cannot be read, or does not take the messages.
    """

    def __init__(
        self, template: ChatTemplate, special_tokens: dict[str, str], generation_prompt: bool, spells_all: bool
    ) -> None:
        self._template = template
        self._special_tokens = special_tokens
        self._generation_prompt = generation_prompt
        self._spells_all = spells_all

    def pair(self, query: str, document: str, instruction: str | None) -> Pair:
        """A pair in the template. One that a client has put into it itself, as those of vLLM do where it has none,
        stays as it is."""
        front, between, behind = self._frame

        def render(first: str, second: str) -> Rendered:
            return self._rendered(self._run(first, second, instruction))

        def join(first: str, second: str) -> Rendered:
            return self._rendered(first + second + behind)

        framed = front and behind and query.startswith(front) and document.endswith(behind)
        if framed and _meet_in(between, query, document):
            return Pair((query, document.removesuffix(behind)), join)
        return Pair((query, document), render)

    def _rendered(self, text: str) -> Rendered:
        begin = self._special_tokens.get("bos_token")
        return Rendered(text, not self._spells_all and not (begin and text.startswith(begin)))

    @cached_property
    def takes_instruction(self) -> bool:
        """Whether it shows one, beside the texts."""
        return self._takes_message or self._shows_all(())

    @cached_property
    def usual_instruction(self) -> str | None:
        """What it shows in the place of the instruction of a pair that has none; None where that cannot be told."""
        if not self.takes_instruction:
            return None
        without = self._run(_QUERY, _DOCUMENT, None)
        front, _, behind = self._run(_QUERY, _DOCUMENT, _INSTRUCTION).partition(_INSTRUCTION)
        told = without.startswith(front) and without.endswith(behind) and len(without) > len(front) + len(behind)
        return without[len(front) : len(without) - len(behind)] if told else None

    @cached_property
    def _takes_message(self) -> bool:
        """Whether it shows an instruction that is a message as well."""
        return self._shows_all((_SYSTEM,))

    def _shows_all(self, in_front: tuple[str, ...]) -> bool:
        try:
            shown = self._filled(_QUERY, _DOCUMENT, _INSTRUCTION, in_front)
        except RequestError:  # it may refuse other roles than these two, or more messages
            return False
        return all(mark in shown for mark in (_QUERY, _DOCUMENT, _INSTRUCTION))

    @cached_property
    def _frame(self) -> tuple[str, str, str]:
        """What stands in front of the texts of a pair and its instruction, between query and document, and behind them.
        Nothing where the document comes first, or is shown in other letters."""
        instruction = _INSTRUCTION if self.takes_instruction else None
        shown = self._run(_QUERY, _DOCUMENT, instruction)
        for called, other in (
            ("query", (_DOCUMENT, _DOCUMENT, instruction)),
            ("document", (_QUERY, _QUERY, instruction)),
        ):
            if self._run(*other) == shown:
                raise RequestError(
                    f"The chat template does not show the {called} of a pair.",
                    "Give one that shows the contents of two messages, of the roles query and document: "
                    "docs/formats/embeddings.md.",
                )
        begins = {mark: shown.find(mark) for mark in (_QUERY, _DOCUMENT, _INSTRUCTION) if mark in shown}
        if not 0 <= begins.get(_QUERY, -1) < begins.get(_DOCUMENT, -1):
            return "", "", ""
        last = max(begins, key=lambda mark: begins[mark])
        between = shown[begins[_QUERY] + len(_QUERY) : begins[_DOCUMENT]]
        return shown[: min(begins.values())], between, shown[begins[last] + len(last) :]

    def _run(self, query: str, document: str, instruction: str | None) -> str:
        return self._filled(query, document, instruction, (_SYSTEM,) if instruction and self._takes_message else ())

    def _filled(self, query: str, document: str, instruction: str | None, in_front: tuple[str, ...]) -> str:
        """`in_front`: roles of messages that have the instruction."""
        variables = dict.fromkeys(_VARIABLES, instruction) if instruction else {}
        return self._template.render(
            [
                *({"role": role, "content": instruction} for role in in_front),
                {"role": "query", "content": query},
                {"role": "document", "content": document},
            ],
            add_generation_prompt=self._generation_prompt,
            variables={**self._special_tokens, **variables},
        )


def _meet_in(between: str, query: str, document: str) -> bool:
    """Whether `between` stands where the two texts meet, in one of them or a part of it in each."""
    return any(
        query.endswith(between[:length]) and document.startswith(between[length:]) for length in range(len(between) + 1)
    )


def pair_template(facts: PoolingFacts, tokenizer: Tokenizer) -> PairTemplate | None:
    """That of the model, in whose place one that a server or LLM was given stands; None: the tokenizer joins pairs.
    As with vLLM, one that was given has the tokenizer's special tokens around it."""
    own = facts.pair_template
    if facts.task != "score" or (own is None and not tokenizer.template_is_given):
        return None
    prompts = own is not None and own.add_generation_prompt
    if tokenizer.template_is_given and tokenizer.chat_template is not None:
        return PairTemplate(tokenizer.chat_template, tokenizer.special_tokens, prompts, spells_all=False)
    assert own is not None, "a template is there"
    return PairTemplate(ChatTemplate({"default": own.source}), tokenizer.special_tokens, prompts, spells_all=True)
