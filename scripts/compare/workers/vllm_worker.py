"""vLLM's offline engine: vllm_worker.py MODEL THREADS KV_BYTES MAX_USERS MAX_LENGTH.

The engine runs in this process (VLLM_ENABLE_V1_MULTIPROCESSING=0): no messages between processes, one memory to count.
"""

from __future__ import annotations

import sys

from protocol import serve  # isort: skip

import torch
import vllm

TOKENS_PER_STEP = 2048


def main() -> None:
    model, threads, kv_bytes, users, length = sys.argv[1], *map(int, sys.argv[2:6])
    torch.set_num_threads(threads)
    engine = vllm.LLM(
        model,
        dtype="bfloat16",
        max_model_len=length,
        max_num_seqs=users,
        max_num_batched_tokens=TOKENS_PER_STEP,
        kv_cache_memory_bytes=kv_bytes,
        enable_prefix_caching=False,
    )

    def generate(prompts: list[list[int]], max_tokens: int) -> int:
        params = vllm.SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False)
        results = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
        return sum(len(result.outputs[0].token_ids) for result in results)

    serve(f"vLLM {vllm.__version__}", generate)


if __name__ == "__main__":
    main()
