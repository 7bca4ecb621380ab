"""A checkpoint in compressed-tensors' int-quantized format: w8a8_checkpoint.py MODEL OUTPUT.

Every linear layer but the vocabulary's: int8 weights with a scale per output, rounded to nearest; activations are
quantized per token when they are used.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

FORMAT = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}


def main() -> None:
    model, output = Path(sys.argv[1]), Path(sys.argv[2])
    shutil.copytree(model, output, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors: dict[str, npt.NDArray[Any]] = {}
    with safe_open(model / "model.safetensors", "numpy") as source:
        for name in source.keys():  # noqa: SIM118
            tensor = source.get_tensor(name)
            if not name.endswith("_proj.weight"):
                tensors[name] = tensor
                continue
            weight = tensor.astype(np.float32)
            scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True), 1e-8) / 127
            tensors[name] = np.rint(weight / scale).astype(np.int8)
            tensors[f"{name}_scale"] = scale.astype(ml_dtypes.bfloat16)
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (output / "config.json").write_text(json.dumps({**config, "quantization_config": FORMAT}, indent=2))


main()
