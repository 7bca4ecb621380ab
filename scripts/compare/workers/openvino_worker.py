"""OpenVINO GenAI's continuous batching: openvino_worker.py MODEL THREADS KV_TOKENS MAX_USERS."""

from __future__ import annotations

import sys

from protocol import serve  # isort: skip

import numpy as np
import openvino
import openvino_genai as genai

BLOCK_TOKENS = 32  # of the CPU plugin
TOKENS_PER_STEP = 2048


def main() -> None:
    model, threads, kv_tokens, users = sys.argv[1], *map(int, sys.argv[2:5])
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = kv_tokens // BLOCK_TOKENS
    scheduler.max_num_seqs = users
    scheduler.max_num_batched_tokens = TOKENS_PER_STEP
    scheduler.enable_prefix_caching = False
    pipeline = genai.ContinuousBatchingPipeline(
        model, scheduler, device="CPU", properties={"INFERENCE_NUM_THREADS": threads}
    )

    def generate(prompts: list[list[int]], max_tokens: int) -> int:
        config = genai.GenerationConfig(max_new_tokens=max_tokens, ignore_eos=True, do_sample=False)
        inputs = [openvino.Tensor(np.array([prompt], np.int64)) for prompt in prompts]
        results = pipeline.generate(inputs, [config] * len(prompts))
        return sum(len(ids) for result in results for ids in result.m_generation_ids)

    serve(f"OpenVINO GenAI {genai.__version__}", generate)


main()
