"""Attention in tiles of AMX, compiled over a model of its instructions in C (amx_model.h)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inflight.build.targets.cpu.compiler.cpu_levels import native_level
from tests.kernel.cpu.attention_shapes import Shape
from tests.kernel.cpu.test_amx import BFLOAT16, MODEL, check_instructions
from tests.kernel.cpu.test_attention import check_attention

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not native_level().triple.startswith("x86_64"), reason="the model needs x86-64's headers"),
]


def test_attention_in_tiles_is_as_defined_and_a_row_sees_neither_company_nor_chunks(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    shape = replace(
        Shape.random(rng, BFLOAT16), num_kv_heads=int(rng.integers(1, 3)), queries_per_kv=int(rng.choice([1, 3, 17]))
    )
    attention = check_attention(shape, native_level(), rng, tmp_path, MODEL)
    check_instructions(attention.attend.library)
