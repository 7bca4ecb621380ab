"""Whole engines in tiles of AMX, or without AMX over the model of its instructions, beside the same in vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.build.targets.cpu import build as cpu_build
from inflight.build.targets.cpu.compiler.compile import compile_library
from inflight.build.targets.cpu.compiler.cpu_levels import CpuLevel, native_level
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.machine.tiles import needs_tiles
from inflight.runtime.loading.load import load_engine
from tests.engines.built_engine import BuiltEngine
from tests.kernel.cpu.test_amx import MODEL
from tests.models.random_models import random_shape, save_random_model
from tests.pipeline.cpu.test_cross_cpu import native

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.slow,
    pytest.mark.skipif(not native_level().triple.startswith("x86_64"), reason="the model needs x86-64's headers"),
]
HAS_TILES = needs_tiles(native_level().features)


def _over_the_model(text: str, level: CpuLevel, output: Path, *, cxx: str | None = None) -> None:
    compile_library(MODEL + text, level, output, cxx=cxx)


@pytest.mark.parametrize("quantize", [None, "int8_w8a8", "int4_wo"])
def test_an_engine_in_tiles_gives_the_tokens_of_vectors(
    quantize: Any, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = random_shape(rng, "qwen2")
    model = save_random_model(tmp_path / "model", shape, int(rng.integers(2**31)), torch.bfloat16)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(quantize=quantize))

    # Integers give the same bits either way, in products and over a cache of them; bfloat16 is near.
    cache = "auto" if quantize is None else "int8"

    def build(name: str, *levels: str) -> BuiltEngine:
        recipe = make_recipe(cpu=levels, max_seq_len=384, kv_cache_dtype=cache)
        build_engine(tmp_path / "checkpoint", tmp_path / name, recipe)
        return BuiltEngine(tmp_path / name, model, torch.bfloat16, shape.vocab_size)

    # Two variants over one weights file: this machine takes the one in tiles where it has them.
    vectors = "znver5" if HAS_TILES else "native"
    both = build("both", "sapphirerapids", vectors)
    executor = load_engine(both.directory, threads=1)
    assert executor.variant.cpu == native_level().name  # type: ignore[attr-defined]
    executor.close()

    if HAS_TILES:
        plain, tiles = build("plain", vectors), both
    else:
        monkeypatch.setattr(cpu_build, "compile_library", _over_the_model)
        plain, tiles = both, build("tiles", "native")

    prompt = plain.random_prompt(rng, 100)
    tokens, logits = native(plain, prompt)
    tile_tokens, tile_logits = native(tiles, prompt)
    if quantize is not None:
        assert tile_tokens == tokens
        np.testing.assert_array_equal(tile_logits, logits)
    else:  # the first step: later ones may follow another token where two are nearly alike
        np.testing.assert_allclose(tile_logits[0], logits[0], rtol=0, atol=2e-2 * float(abs(logits[0]).max()))
