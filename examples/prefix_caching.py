"""Prefix caching: conversations with the same system prompt compute it once.

Run: python examples/prefix_caching.py ENGINE
Blocks of the KV cache (`--tokens-per-block` tokens each) that a prompt shares with an earlier one are reused.
"""

from __future__ import annotations

import sys

from inflight.runtime import LLM, SamplingParams

SYSTEM = "You answer questions about the standard library of Python. " * 4
QUESTIONS = ["What does shutil.copytree do?", "What does os.walk do?", "What does json.dumps do?"]


def main(engine: str) -> None:
    params = SamplingParams(temperature=0, max_tokens=16)
    cached = []
    with LLM(engine) as llm:
        for question in QUESTIONS:
            messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
            (output,) = llm.chat(messages, params)
            metrics = output.metrics
            assert metrics is not None
            cached.append(metrics.cached_tokens)
            print(f"{metrics.cached_tokens} of {metrics.prompt_tokens} prompt tokens were cached: {question}")
    # The first conversation found nothing; the last one found the system prompt.
    assert cached[-1] > cached[0] == 0


if __name__ == "__main__":
    main(sys.argv[1])
