"""Weights that are codes of a table: the tables, `--quantize nf4`, and what a checkpoint says of them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.codebooks import CODEBOOKS, codebook_of, nearest_codes
from inflight.convert.quantization.schemes import Codebook
from inflight.errors import CheckpointError
from tests.models.hf_files import Array, random_tensors, tiny_config, write_model
from tests.unit.convert.test_checkpoint import edit_config

pytestmark = pytest.mark.unit

FC = "transformer.layers.1.mlp.fc"


def converted(directory: Path, rng: np.random.Generator, **options: Any) -> tuple[Checkpoint, dict[str, Array]]:
    config = tiny_config(hidden_size=int(rng.integers(65, 200)))
    tensors = random_tensors(config, rng)
    write_model(directory / "model", config, tensors)
    convert_model(directory / "model", directory / "checkpoint", ConvertOptions(progress=False, **options))
    return Checkpoint.open(directory / "checkpoint"), tensors


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_a_number_gets_the_code_of_the_nearest_one(rng: np.random.Generator, codebook: Codebook) -> None:
    table = CODEBOOKS[codebook]
    numbers = rng.uniform(-1.2, 1.2, (40, 50)).astype(np.float32) * abs(table).max()
    distances = abs(numbers[..., None].astype(np.float64) - table)
    found = np.take_along_axis(distances, nearest_codes(numbers, codebook)[..., None].astype(np.int64), axis=-1)[..., 0]
    assert (found <= distances.min(axis=-1) * 1.000001).all()
    assert codebook_of(table.copy()) == codebook and codebook_of(table[::-1]) is None


@pytest.mark.parametrize("group_size", [None, 32, 64, 128])
def test_nf4_is_the_nearest_number_times_the_greatest_of_its_group(
    tmp_path: Path, rng: np.random.Generator, group_size: int | None
) -> None:
    name = str(rng.choice(["nf4", "bitsandbytes-nf4"]))
    given = {} if group_size is None else {"group_size": group_size}
    checkpoint, tensors = converted(tmp_path, rng, quantize=name, **given)
    size, source = group_size or 64, tensors["model.layers.1.mlp.gate_proj.weight"]
    quantization = checkpoint.quantization_of(FC)
    assert quantization is not None and quantization.group_size == size and quantization.codebook == "nf4"
    packed, scales = checkpoint.array(f"{FC}.weight").view(np.uint8), checkpoint.array(f"{FC}.weights_scaling_factor")
    codes = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1, packed.shape[1])[: len(source)]
    wide = np.repeat(scales, size, axis=1)[:, : source.shape[1]]
    np.testing.assert_array_equal(checkpoint.matrix(FC), CODEBOOKS["nf4"][codes] * wide)
    for group, start in enumerate(range(0, source.shape[1], size)):
        greatest = abs(source[:, start : start + size]).max(axis=1)
        np.testing.assert_array_equal(scales[:, group], greatest.astype(np.float16).astype(np.float32))
    error = abs(checkpoint.matrix(FC) - source)
    assert (error <= abs(CODEBOOKS["nf4"][:, None, None] * wide - source).min(axis=0) + 1e-6 * wide).all()
    head = checkpoint.quantization_of("lm_head")
    assert head is not None and head.scheme.name == "int8_wo"


def test_the_checkpoint_names_the_codebook_and_guards_it_from_other_readers(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    checkpoint, _ = converted(tmp_path, rng, quantize="nf4", exclude_modules=("lm_head",))
    facts = json.loads((checkpoint.directory / "config.json").read_text())["quantization"]
    assert facts["quant_algo"] == "W4A16_NF4" and facts["weight_layout"] == "out_in" and facts["group_size"] == 64
    changes: list[tuple[dict[str, Any], str]] = [
        ({"weight_layout": None}, "weights laid out for a GPU"),
        ({"has_zero_point": True}, "codes have none"),
        ({"quant_algo": "W4A16_NF5"}, "W4A16_NF4"),
    ]
    for change, said in changes:
        edit_config(checkpoint.directory, partial(_set_facts, facts={**facts, **change}))
        with pytest.raises(CheckpointError, match=said):
            Checkpoint.open(checkpoint.directory)
    edit_config(checkpoint.directory, partial(_set_facts, facts=facts))
    Checkpoint.open(checkpoint.directory)


def _set_facts(raw: dict[str, Any], facts: dict[str, Any]) -> None:
    raw["quantization"] = facts
