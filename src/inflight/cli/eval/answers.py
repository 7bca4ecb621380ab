"""Answers of an engine to questions, greedily."""

from __future__ import annotations

from collections.abc import Sequence

from inflight.accuracy.material import Question
from inflight.runtime.executors.base import Executor
from inflight.runtime.offline.llm import LLM
from inflight.runtime.request.validation import fit_max_tokens
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.tokenizer import Tokenizer


def answer_questions(
    executor: Executor, tokenizer: Tokenizer, questions: Sequence[Question], max_tokens: int
) -> list[str]:
    """The answers without the white space around them. Raises RequestError, naming the one that cannot be asked."""
    llm = LLM.from_executor(executor, tokenizer)
    prompts = [_token_ids(tokenizer, question) for question in questions]
    params, longest = SamplingParams(temperature=0, max_tokens=max_tokens), llm.manifest.limits.max_seq_len
    fitted = [fit_max_tokens(params, len(token_ids), longest) for token_ids in prompts]
    return [output.outputs[0].text.strip() for output in llm.generate(prompts, fitted)]


def is_right(answer: str, question: Question) -> bool:
    return any(answer == right.strip() for right in question.answers)


def _token_ids(tokenizer: Tokenizer, question: Question) -> list[int]:
    if question.chat and tokenizer.chat_template is not None:
        return tokenizer.encode_chat([{"role": "user", "content": question.prompt}])
    return tokenizer.encode(question.prompt)
