"""Generate text with an engine in this process: several prompts in one batch, and the same result every time.

Run: python examples/offline_generation.py ENGINE
ENGINE is a directory that `inflight build-engine` wrote.
"""

from __future__ import annotations

import sys

from inflight.runtime import LLM, SamplingParams

PROMPTS = ["The first rule of plain prose is", "def fibonacci(n):", "Once upon a time"]


def main(engine: str) -> None:
    params = SamplingParams(temperature=0.8, top_p=0.95, seed=1, max_tokens=32)
    with LLM(engine) as llm:
        together = llm.generate(PROMPTS, params)
        for output in together:
            completion = output.outputs[0]
            print(f"{output.prompt!r} -> {completion.text!r} ({completion.finish_reason})")

        # Batch-invariant: a prompt gives the same tokens alone as in the batch.
        (alone,) = llm.generate(PROMPTS[0], params)
        assert alone.outputs[0].token_ids == together[0].outputs[0].token_ids


if __name__ == "__main__":
    main(sys.argv[1])
