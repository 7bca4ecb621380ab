"""Print text while it is generated, and report TTFT (time to first token) and TPOT (time per output token).

Run: python examples/streaming.py ENGINE
"""

from __future__ import annotations

import sys

from inflight.runtime import LLM, SamplingParams


def main(engine: str) -> None:
    params = SamplingParams(temperature=0.8, seed=4, max_tokens=48, ignore_eos=True)
    with LLM(engine) as llm:
        for output in llm.generate("Tell me a story.", params, stream=True):
            print(output.outputs[0].text_delta, end="", flush=True)
    print()

    # The last output of a request has its metrics.
    metrics = output.metrics
    assert metrics is not None
    ttft_ms = (metrics.first_token_ns - metrics.arrival_ns) / 1e6
    tpot_ms = (metrics.last_token_ns - metrics.first_token_ns) / 1e6 / max(metrics.output_tokens - 1, 1)
    print(f"{metrics.output_tokens} tokens, TTFT {ttft_ms:.1f} ms, TPOT {tpot_ms:.2f} ms")


if __name__ == "__main__":
    main(sys.argv[1])
