"""Log probabilities: of each generated token with its alternatives, and of a given text (its perplexity).

Run: python examples/log_probabilities.py ENGINE
"""

from __future__ import annotations

import math
import sys

from inflight.runtime import LLM, SamplingParams


def main(engine: str) -> None:
    with LLM(engine) as llm:
        params = SamplingParams(temperature=0, max_tokens=8, logprobs=3, prompt_logprobs=0)
        (output,) = llm.generate("The capital of France is", params)

        completion = output.outputs[0]
        assert completion.logprobs is not None
        for token_id, entries in zip(completion.token_ids, completion.logprobs, strict=True):
            chosen = entries[token_id]
            others = ", ".join(f"{entry.decoded_token!r} {entry.logprob:.2f}" for entry in entries.values())
            print(f"{chosen.decoded_token!r} {chosen.logprob:.2f} (rank {chosen.rank}) of {others}")
        print(f"cumulative log probability {completion.cumulative_logprob:.2f}")

        # The first token of the prompt has no log probability.
        assert output.prompt_logprobs is not None and output.prompt_token_ids is not None
        scores = [
            entries[token_id].logprob
            for token_id, entries in zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
            if entries is not None
        ]
        print(f"perplexity of the prompt {math.exp(-sum(scores) / len(scores)):.2f}")


if __name__ == "__main__":
    main(sys.argv[1])
