"""Two ways to ask the model, both greedy: through transformers in float32, and through an inflight engine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from demo_model.chat import Tool, as_messages
from inflight.progress import progress_bar

MAX_TOKENS = 128
MAX_BATCH = 64


Conversation = str | Sequence[dict[str, Any]]


class Answer(NamedTuple):
    """What was written, as text and as tokens, without the end token."""

    text: str
    token_ids: tuple[int, ...]


class Answerer(Protocol):
    """Answers conversations, in their order. Each is a question, or messages; all have the same tools."""

    def answers(self, conversations: Sequence[Conversation], tools: Sequence[Tool] = ()) -> list[Answer]: ...


class TransformersAnswerer:
    """The model directory in transformers. Only prompts of equal length share a batch, so that nothing is padded."""

    def __init__(self, directory: Path) -> None:
        import torch
        from transformers import AutoTokenizer, LlamaForCausalLM

        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def answers(self, conversations: Sequence[Conversation], tools: Sequence[Tool] = ()) -> list[Answer]:
        prompts = [self._prompt(conversation, tools) for conversation in conversations]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        found: dict[int, Answer] = {}
        with progress_bar("transformers", total=len(prompts)) as advance:
            for _, group in groupby(order, key=lambda index: len(prompts[index])):
                same = list(group)
                for start in range(0, len(same), MAX_BATCH):
                    batch = same[start : start + MAX_BATCH]
                    found.update(zip(batch, self._generate([prompts[index] for index in batch]), strict=True))
                    advance(len(batch))
        return [found[index] for index in range(len(prompts))]

    def _prompt(self, conversation: Conversation, tools: Sequence[Tool]) -> list[int]:
        ids: list[int] = self.tokenizer.apply_chat_template(
            _messages(conversation), tools=list(tools) or None, add_generation_prompt=True, return_dict=False
        )
        return ids

    def _generate(self, prompts: list[list[int]]) -> list[Answer]:
        import torch

        ids = torch.tensor(prompts)
        rows = self.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_TOKENS, do_sample=False
        ).tolist()
        return [self._answer(row[ids.shape[1] :]) for row in rows]

    def _answer(self, ids: list[int]) -> Answer:
        end = self.tokenizer.eos_token_id
        kept = ids[: ids.index(end)] if end in ids else ids
        return Answer(self.tokenizer.decode(kept, skip_special_tokens=True), tuple(kept))


class EngineAnswerer:
    """An engine directory in inflight; all questions run at once."""

    def __init__(self, directory: Path) -> None:
        from inflight.runtime.offline.llm import LLM

        self._llm = LLM(directory)

    def answers(self, conversations: Sequence[Conversation], tools: Sequence[Tool] = ()) -> list[Answer]:
        from inflight.runtime.sampling.params import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)
        outputs = self._llm.chat(list(map(_messages, conversations)), params, tools=list(tools) or None)
        ends = self._llm.manifest.generation.end_token_ids
        written = [output.outputs[0] for output in outputs]
        return [Answer(each.text, tuple(token for token in each.token_ids if token not in ends)) for each in written]


def _messages(conversation: Conversation) -> Sequence[dict[str, Any]]:
    return as_messages(conversation) if isinstance(conversation, str) else conversation
