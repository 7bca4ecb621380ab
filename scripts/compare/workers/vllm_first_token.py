"""One token of text: vllm_first_token.py MODEL PROMPT. Eager: compiling takes longer than the token."""

from __future__ import annotations

import os
import sys

_stdout = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # vLLM greets on stdout

import vllm  # noqa: E402


def main() -> None:
    engine = vllm.LLM(
        sys.argv[1],
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=1,
        kv_cache_memory_bytes=256 << 20,
        enable_prefix_caching=False,
    )
    params = vllm.SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, skip_special_tokens=False)
    results = engine.generate([sys.argv[2]], params, use_tqdm=False)
    print(results[0].outputs[0].text, file=_stdout, flush=True)


if __name__ == "__main__":
    main()
