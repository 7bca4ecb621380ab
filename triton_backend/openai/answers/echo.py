"""The prompt as part of the completion, with its log probabilities."""

from __future__ import annotations

from dataclasses import replace

from inflight.runtime.scheduler.step import TokenResult
from inflight.runtime.text.completion import TokenLogprob, spell_logprob
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.triton_backend.openai.answers.logprobs import spell_token
from inflight.triton_backend.openai.service import Generation


class Echo:
    """The echo of one prompt. A prompt given as ids is echoed as they decode, with special tokens where
    skip_special_tokens is false, and so is one that was truncated.

    `num_top`: how many of the likeliest tokens to show beside each.
    """

    def __init__(
        self, tokenizer: Tokenizer, generation: Generation, prompt: str | list[int], num_top: int | None
    ) -> None:
        self._tokenizer = tokenizer
        self._generation = generation
        self._num_top = num_top
        self._ids = generation.request.prompt_token_ids
        self._as_given = isinstance(prompt, str) and not generation.truncated
        self._skips = not self._as_given and generation.request.params.skip_special_tokens
        self.text = str(prompt) if self._as_given else tokenizer.decode(self._ids, self._skips)

    def logprobs(self) -> tuple[list[TokenLogprob | None], list[str]]:
        """An entry per prompt token, None for the first, and the tokens' texts. Known once the first token has come."""
        entries = [self._entry(result) for result in self._generation.prompt_logprobs or ()]
        return entries, [spell_token(token_id, self._tokenizer.token_bytes(token_id)) for token_id in self._ids]

    def _entry(self, result: TokenResult | None) -> TokenLogprob | None:
        """As many of the likeliest tokens as logprobs asks for: prompt_logprobs may have asked for more."""
        if result is None:
            return None
        entry = spell_logprob(self._tokenizer, result)
        return replace(entry, top=entry.top[: self._num_top])

    def offsets(self) -> list[int]:
        """Characters of the prompt before each of its tokens. Tokens that the tokenizer put around the text have none
        of their own."""
        if self._as_given:
            return self._offsets_as_given()
        detokenizer = self._tokenizer.detokenizer(self._skips)
        offsets, length = [], 0
        for token_id in self._ids:
            offsets.append(length)
            length += len(detokenizer.push([token_id]))
        return offsets

    def _offsets_as_given(self) -> list[int]:
        """Where the tokenizer found each token: what it decodes to need not be what stands there."""
        encoding = self._tokenizer.backend.encode(self.text)
        if tuple(encoding.ids) != self._ids:
            encoding = self._tokenizer.backend.encode(self.text, add_special_tokens=False)
        offsets, end = [], 0
        for (start, stop), is_added in zip(encoding.offsets, encoding.special_tokens_mask, strict=True):
            if is_added:
                offsets.append(end)
                continue
            # Some tokenizers do not count the space before a word as part of it, though its token has it.
            offsets.append(start if self.text[end:start].strip() else min(start, end))
            end = max(end, stop)
        return offsets
