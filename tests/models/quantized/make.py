"""Makes the models of this folder again, with the tools of README.md in an environment of their own.

python -m tests.models.quantized.make DIRECTORY
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.models.quantized.matrices import awq, compressed, float8_blocks, gptq
from tests.models.quantized.whole_models import bitsandbytes, modelopt, tensorrt_llm_exports


def _integers(bits: int, strategy: str, *, symmetric: bool = True, size: int | None = None) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "group_size": size}


def _floats(strategy: str, **further: Any) -> dict[str, Any]:
    return {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy} | further


HALF, BRAIN = torch.float16, torch.bfloat16
DYNAMIC = {"num_bits": 8, "symmetric": True, "strategy": "token", "dynamic": True}
MAKERS: dict[str, Callable[[Path], None]] = {
    "compressed_tensors/int4_groups": compressed("pack-quantized", _integers(4, "group", size=32), BRAIN),
    "compressed_tensors/int4_zero_points": compressed(
        "pack-quantized", _integers(4, "group", symmetric=False, size=32), HALF
    ),
    "compressed_tensors/int8_packed": compressed("pack-quantized", _integers(8, "channel", symmetric=False), BRAIN),
    "compressed_tensors/int8_w8a8": compressed(
        "int-quantized", _integers(8, "channel"), BRAIN, {**DYNAMIC, "type": "int"}
    ),
    "compressed_tensors/int8_zero_points": compressed("int-quantized", _integers(8, "channel", symmetric=False), HALF),
    "compressed_tensors/fp8_static": compressed("float-quantized", _floats("tensor"), BRAIN, _floats("tensor")),
    "compressed_tensors/fp8_dynamic": compressed(
        "float-quantized", _floats("channel"), BRAIN, {**DYNAMIC, "type": "float"}
    ),
    "compressed_tensors/fp8_blocks": compressed(
        "float-quantized",
        _floats("block", block_structure=[128, 128]),
        BRAIN,
        _floats("group", group_size=128, dynamic=True),
    ),
    "compressed_tensors/mxfp4": compressed("mxfp4-pack-quantized", _floats("group", num_bits=4, group_size=32), BRAIN),
    "modelopt/fp8": modelopt("FP8_DEFAULT_CFG"),
    "modelopt/int4_awq": modelopt("INT4_AWQ_CFG"),
    "modelopt/w4a8_awq": modelopt("W4A8_AWQ_BETA_CFG"),
    "modelopt/int8_sq": modelopt("INT8_SMOOTHQUANT_CFG"),
    "modelopt/fp8_blocks": modelopt("FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG", 256),
    "modelopt/fp8_rows": modelopt("FP8_PER_CHANNEL_PER_TOKEN_CFG"),
    "tensorrt_llm": tensorrt_llm_exports,
    "others/gptq_int4": gptq(4, True, False),
    "others/gptq_desc_act": gptq(4, False, True),
    "others/gptq_int8": gptq(8, True, False),
    "others/awq": awq,
    "others/fp8_blocks": float8_blocks,
    "others/bitsandbytes_nf4": bitsandbytes(
        BRAIN, load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    ),
    "others/bitsandbytes_fp4": bitsandbytes(HALF, load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    "others/bitsandbytes_int8": bitsandbytes(HALF, load_in_8bit=True),
}


def main() -> None:
    for name, make in MAKERS.items():
        place = Path(sys.argv[1]) / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        make(place)
        print(name, sum(path.stat().st_size for path in place.rglob("*")))


if __name__ == "__main__":
    main()
