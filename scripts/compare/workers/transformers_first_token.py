"""One token of text: transformers_first_token.py MODEL PROMPT THREADS."""

from __future__ import annotations

import sys

import torch
import transformers


def main() -> None:
    path, prompt, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    inputs = tokenizer(prompt, return_tensors="pt")
    settings = transformers.GenerationConfig(max_new_tokens=1, do_sample=False, pad_token_id=0, eos_token_id=None)
    with torch.inference_mode():
        output = model.generate(inputs.input_ids, attention_mask=inputs.attention_mask, generation_config=settings)
    print(tokenizer.decode(output[0, inputs.input_ids.shape[1] :]), flush=True)


main()
