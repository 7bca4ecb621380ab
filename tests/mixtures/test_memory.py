"""A mixture of experts four times as large as the memory that its conversion may take, from every kind of source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.mixtures.test_gpt_oss import save_blocks
from tests.models.families.gguf_mixtures import Floats, random_mixture_shape, write_mixture
from tests.models.random_models import Shape, random_model, random_shape, save_random_model
from tests.unit.convert.test_memory_limit import assert_converts_in_a_quarter

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is limited and counted as Linux does it"),
]


def sized(shape: Shape, layers: int) -> Shape:
    """Nearly all of it experts."""
    extra: dict[str, Any] = {**shape.extra, "num_experts_per_tok": 2, "moe_intermediate_size": 448}
    extra |= {"num_local_experts" if shape.family == "gpt_oss" else "num_experts": 8}
    heads: dict[str, Any] = {"num_kv_heads": 2, "queries_per_kv": 1, "head_size": 32}
    # Of blocks of 4 bits twice as many make up a size beside which what a plan takes is little.
    sizes: dict[str, Any] = {
        "hidden_size": 640 if shape.family == "gpt_oss" else 320,
        "intermediate_size": 448,
        "vocab_size": 257,
        "tied": True,
    }
    return replace(shape, extra=extra, num_layers=layers, **heads, **sizes)


@pytest.mark.parametrize(
    ("source", "scheme"),
    [("stacks", ""), pytest.param("stacks", "int4_wo", marks=pytest.mark.slow), ("gguf", ""), ("mxfp4", "")],
)
def test_a_mixture_four_times_the_memory_limit_converts(
    tmp_path: Path, source: str, scheme: str, rng: np.random.Generator, seed: int
) -> None:
    ending = ".gguf" if source == "gguf" else ""
    for name, layers in (("small", 1), ("large", 8)):
        path = tmp_path / f"{name}{ending}"
        if source == "mxfp4":
            save_blocks(path, sized(random_shape(rng, "gpt_oss"), layers), rng, seed)
        elif source == "gguf":
            write_mixture(path, random_model(sized(random_mixture_shape(rng, "qwen3_moe"), layers), seed), _packed)
        else:
            shape = sized(random_mixture_shape(rng, "qwen3_moe"), layers)
            save_random_model(path, shape, seed, torch.bfloat16).save_pretrained(path, save_original_format=False)
    small, large = (tmp_path / f"{name}{ending}" for name in ("small", "large"))
    assert_converts_in_a_quarter(small, large, tmp_path / "out", scheme)


def _packed(name: str, tensor: Floats) -> tuple[Any, Any]:
    """Experts in blocks of 32."""
    import gguf

    if "_exps" not in name:
        return tensor, None
    code = gguf.GGMLQuantizationType.Q8_0
    return gguf.quantize(tensor, code), code
