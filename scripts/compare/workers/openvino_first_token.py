"""One token of text: openvino_first_token.py MODEL PROMPT THREADS."""

from __future__ import annotations

import sys

import openvino_genai as genai


def main() -> None:
    model, prompt, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    pipeline = genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)
    config = genai.GenerationConfig(max_new_tokens=1, ignore_eos=True, do_sample=False, apply_chat_template=False)
    print(pipeline.generate(prompt, config), flush=True)


main()
