"""Logits of a model as ModelOpt's quantizers round it: modelopt_logits.py GGUF TOKENS.json CONFIG CALIBRATION FOLDER.

TOKENS.json: {"windows": [ids, ...], "calibration": [ids, ...]}. CONFIG: a configuration of modelopt.torch.quantization,
or "none" for the model as it is. Of each window FOLDER/NUMBER.npy gets the logits that predict its second half, float32
[tokens, vocab_size]. Weights are the file's numbers in bfloat16; they and all else are computed in float32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    file, tokens, config, folder = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), *sys.argv[3:]
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    model = model.to(torch.float32).eval()
    with torch.inference_mode(config == "none"), torch.no_grad():
        if config != "none":
            quantize(model, config, tokens["calibration"])
        for number, window in enumerate(tokens["windows"]):
            logits = model(torch.tensor([window[:-1]]), use_cache=False).logits[0, len(window) // 2 - 1 :]
            np.save(Path(folder) / f"{number}.npy", logits.numpy())


def quantize(model: Any, config: str, calibration: list[list[int]]) -> None:
    import modelopt.torch.quantization as mtq  # type: ignore[import-not-found]

    def run(model: Any) -> None:
        # All at once: weights are rounded anew in every call, which takes longer than the products.
        model(torch.tensor(calibration), use_cache=False, logits_to_keep=1)

    mtq.quantize(model, getattr(mtq, config), run)
    mtq.fold_weight(model)


main()
