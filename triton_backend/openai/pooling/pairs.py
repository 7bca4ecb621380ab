"""Pairs of texts: what the engine is given of them, and their scores. A cross-encoder reads both texts together; of an
embedding model the score is the cosine of the angle between two vectors, as vLLM has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inflight.errors import placed
from inflight.runtime.pooling.texts import TextReader, TokenizedText
from inflight.runtime.pooling.vectors import Floats, activated, cosine
from inflight.triton_backend.openai.errors import blaming
from inflight.triton_backend.openai.protocol.pairs import RerankBody, ScoreBody


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the pairs: the texts of the parameter `name`, one or a list (`listed`)."""

    name: str
    texts: Sequence[str]
    listed: bool

    def shortened(self, reader: TextReader, tokens: int | None) -> Side:
        """With so many tokens of each text, where it is not empty."""
        for index, text in enumerate(self.texts if tokens else ()):
            with blaming(self.param(index)):
                reader.check_text(text, f"'{self.param(index)}'")
        return Side(self.name, [reader.shortened(text, tokens) for text in self.texts], self.listed)

    def param(self, index: int) -> str:
        """What an error of that text names."""
        return f"{self.name}.{index}" if self.listed else self.name


@dataclass(frozen=True, slots=True)
class Pairs:
    """`texts` are what the engine is given, `firsts` of them before those that they are compared with, 0 where each is
    a pair. `count` pairs have `tokens` tokens; those of a text that is in several count in each, as in vLLM."""

    texts: list[TokenizedText]
    firsts: int
    count: int
    tokens: int

    def scores(self, found: Sequence[Floats], reader: TextReader, raw: bool = False) -> list[float]:
        """Of what `texts` became. `raw`: as the cross-encoder has them; a cosine is always the same."""
        if not self.firsts:
            return [float(each[0]) if raw else activated(float(each[0]), reader.facts) for each in found]
        firsts, seconds = found[: self.firsts], found[self.firsts :]
        return [cosine(firsts[index % self.firsts], second) for index, second in enumerate(seconds)]


def read_pairs(
    reader: TextReader, first: Side, second: Side, body: RerankBody | ScoreBody, truncate: int | None
) -> Pairs:
    """One text with each of the others, or as many. Raises ApiError (400)."""
    instruction = body.asked
    first = first.shortened(reader, body.max_tokens_per_query)
    second = second.shortened(reader, body.max_tokens_per_doc)
    with blaming("truncate_prompt_tokens"):
        reader.check_truncation(truncate)
    with blaming("instruction" if body.instruct is None else "instruct"):
        reader.check_instruction(instruction)
    count = len(second.texts)
    if reader.facts.task == "embed":
        firsts, seconds = (_read_each(reader, side, truncate) for side in (first, second))
        own = [len(text.token_ids) for text in firsts]
        tokens = sum(own) * (count if len(own) == 1 else 1) + sum(len(text.token_ids) for text in seconds)
        return Pairs([*firsts, *seconds], len(firsts), count, tokens)
    pairs = []
    for index, text in enumerate(first.texts):
        with blaming(first.param(index)):
            reader.check_text(text, f"'{first.param(index)}'")
    for index, text in enumerate(second.texts):
        query = first.texts[index % len(first.texts)]
        with blaming(second.param(index)):
            reader.check_text(text, f"'{second.param(index)}'")
            with placed(f"'{second.param(index)}'"):
                pairs.append(reader.pair(query, text, truncate=truncate, instruction=instruction))
    return Pairs(pairs, 0, count, sum(len(pair.token_ids) for pair in pairs))


def _read_each(reader: TextReader, side: Side, truncate: int | None) -> list[TokenizedText]:
    prompt, found = reader.prompt(None), []
    for index, text in enumerate(side.texts):
        with blaming(side.param(index)):
            reader.check_text(text, f"'{side.param(index)}'")
            with placed(f"'{side.param(index)}'"):
                found.append(reader.text(text, truncate=truncate, prompt=prompt))
    return found
