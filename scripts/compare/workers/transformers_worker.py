"""transformers' generate, one static batch: transformers_worker.py MODEL THREADS."""

from __future__ import annotations

import sys

from protocol import serve  # isort: skip

import torch
import transformers


def main() -> None:
    path, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()

    def generate(prompts: list[list[int]], max_tokens: int) -> int:
        ids = torch.tensor(prompts)
        settings = transformers.GenerationConfig(
            max_new_tokens=max_tokens, min_new_tokens=max_tokens, do_sample=False, pad_token_id=0, eos_token_id=None
        )
        with torch.inference_mode():
            output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        return int(output.shape[1] - ids.shape[1]) * len(prompts)

    serve(f"transformers {transformers.__version__}", generate)


main()
