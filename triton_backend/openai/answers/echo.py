"""The prompt as part of the completion, with its log probabilities."""

from __future__ import annotations

from dataclasses import replace

from inflight.runtime.scheduler.step import TokenResult
from inflight.runtime.text.completion import TokenLogprob, spell_logprob
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.triton_backend.openai.service import Generation


class Echo:
    """The echo of one prompt. A prompt given as ids is echoed as they decode, and so is one that was truncated.

    `num_top`: how many of the likeliest tokens to show beside each.
    """

    def __init__(
        self, tokenizer: Tokenizer, generation: Generation, prompt: str | list[int], num_top: int | None
    ) -> None:
        self._tokenizer = tokenizer
        self._generation = generation
        self._num_top = num_top
        self._ids = generation.request.prompt_token_ids
        as_given = isinstance(prompt, str) and not generation.truncated
        self.text = str(prompt) if as_given else tokenizer.decode(self._ids)

    def logprobs(self) -> tuple[list[TokenLogprob | None], list[str]]:
        """An entry per prompt token, None for the first, and the tokens' texts. Known once the first token has come."""
        entries = [self._entry(result) for result in self._generation.prompt_logprobs or ()]
        return entries, [self._tokenizer.token_text(token_id) for token_id in self._ids]

    def _entry(self, result: TokenResult | None) -> TokenLogprob | None:
        """As many of the likeliest tokens as logprobs asks for: prompt_logprobs may have asked for more."""
        if result is None:
            return None
        entry = spell_logprob(self._tokenizer, result)
        return replace(entry, top=entry.top[: self._num_top])

    def offsets(self) -> list[int]:
        """Characters of the prompt before each of its tokens."""
        detokenizer = self._tokenizer.detokenizer()
        offsets, length = [], 0
        for token_id in self._ids:
            offsets.append(length)
            length += len(detokenizer.push([token_id]))
        return offsets
