"""The prompt as part of the completion, with its log probabilities."""

from __future__ import annotations

from inflight.runtime.text.completion import TokenLogprob, spell_logprob
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.triton_backend.openai.service import Generation


class Echo:
    """The echo of one prompt. A prompt given as ids is echoed as they decode."""

    def __init__(self, tokenizer: Tokenizer, generation: Generation, prompt: str | list[int]) -> None:
        self._tokenizer = tokenizer
        self._generation = generation
        self._ids = generation.request.prompt_token_ids
        self.text = prompt if isinstance(prompt, str) else tokenizer.decode(self._ids)

    def logprobs(self) -> tuple[list[TokenLogprob | None], list[str]]:
        """An entry per prompt token, None for the first, and the tokens' texts. Known once the first token has come."""
        results = self._generation.prompt_logprobs or ()
        entries = [None if result is None else spell_logprob(self._tokenizer, result) for result in results]
        return entries, [self._tokenizer.token_text(token_id) for token_id in self._ids]

    def offsets(self) -> list[int]:
        """Characters of the prompt before each of its tokens."""
        detokenizer = self._tokenizer.detokenizer()
        offsets, length = [], 0
        for token_id in self._ids:
            offsets.append(length)
            length += len(detokenizer.push([token_id]))
        return offsets
