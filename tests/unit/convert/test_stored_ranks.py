"""Ranks of checkpoints with scaled inputs, groups and zero points, as another writer must split them, are read."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.errors import CheckpointError
from inflight.files.tensor_file import encode_header
from tests.models.hf_files import Array, random_tensors, tiny_config, write_model
from tests.models.stored_forms import FLOAT_ROWS, GROUPS_AND_ZEROS, SCALED_INPUTS, Form, store_as

pytestmark = pytest.mark.unit

TP = 2
HEADS, KV_HEADS, HEAD = 8, 2, 16
COLUMN_PARALLEL, ROW_PARALLEL = ("mlp.fc", "mlp.gate"), ("mlp.proj", "attention.dense")
PROJ = "transformer.layers.1.mlp.proj"


def _rank_part(name: str, array: Array, rank: int) -> Array:
    """What rank `rank` of two holds of a tensor, by the rules of docs/formats/checkpoint.md."""
    module, _, kind = name.rpartition(".")
    factors, vector = kind == "prequant_scaling_factor", array.shape == (1,)
    if vector or (factors and not module.endswith(ROW_PARALLEL)) or "norm" in name or module.endswith("embedding"):
        return array
    if module.endswith("attention.qkv"):
        q, kv = HEADS * HEAD, KV_HEADS * HEAD
        bounds = np.cumsum([0, q, kv, kv]) * len(array) // (q + 2 * kv)
        parts = [np.split(array[start:stop], TP)[rank] for start, stop in itertools.pairwise(bounds)]
        return np.concatenate(parts)
    if module.endswith(ROW_PARALLEL):
        return array if array.ndim == 1 and not factors else np.split(array, TP, axis=-1)[rank]
    if module.endswith(COLUMN_PARALLEL) or module == "lm_head":
        return np.split(array, TP)[rank]
    return array


def _split(directory: Path, whole: Checkpoint) -> None:
    shutil.copytree(whole.directory, directory)
    (directory / "rank0.safetensors").unlink()
    for rank in range(TP):
        tensors = {name: _rank_part(name, np.array(whole.array(name)), rank) for name in whole.tensors}
        header = encode_header({name: (array.dtype.name, array.shape) for name, array in tensors.items()})
        data = b"".join(np.ascontiguousarray(array).tobytes() for array in tensors.values())
        (directory / f"rank{rank}.safetensors").write_bytes(header + data)
    config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    config["mapping"] |= {"world_size": TP, "tp_size": TP, "moe_tp_size": TP}
    (directory / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("form", [*SCALED_INPUTS, *FLOAT_ROWS, *GROUPS_AND_ZEROS], ids=str)
def test_ranks_are_read_as_parts_of_the_whole(tmp_path: Path, rng: np.random.Generator, form: Form) -> None:
    config = tiny_config(
        hidden_size=40,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD,
        intermediate_size=256,
        vocab_size=46,
    )
    write_model(tmp_path / "model", config, random_tensors(config, rng, "bfloat16"))
    convert_model(tmp_path / "model", tmp_path / "whole", ConvertOptions(progress=False))
    whole = store_as(tmp_path / "whole", form, rng)
    dense_is_cut = int(form.block.get("group_size", 1)) > HEADS * HEAD // TP
    if dense_is_cut:
        pytest.skip("a group would lie on two ranks")
    _split(tmp_path / "ranks", whole)
    ranks = Checkpoint.open(tmp_path / "ranks")
    for module, axis in ((PROJ, 1), ("transformer.layers.0.attention.dense", 1), ("transformer.layers.1.mlp.gate", 0)):
        parts = [ranks.matrix(module, rank) for rank in range(TP)]
        np.testing.assert_array_equal(np.concatenate(parts, axis=axis), whole.matrix(module))
        factors = [ranks.input_factors(module, rank) for rank in range(TP)]
        expected = whole.input_factors(module)
        if expected is None:
            assert factors == [None] * TP
        elif axis == 1:
            np.testing.assert_array_equal(np.concatenate([part for part in factors if part is not None]), expected)
        else:
            assert all(np.array_equal(part, expected) for part in factors if part is not None)


@pytest.mark.parametrize("tensor", ["zero", "weights_scaling_factor"])
def test_zero_points_and_scales_that_are_lost_or_misshapen_are_named(
    tmp_path: Path, rng: np.random.Generator, tensor: str
) -> None:
    config = tiny_config()
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    convert_model(tmp_path / "model", tmp_path / "ckpt", ConvertOptions(progress=False))
    whole = store_as(tmp_path / "ckpt", GROUPS_AND_ZEROS[1], rng)
    tensors = {name: np.array(whole.array(name)) for name in whole.tensors}
    name = f"{PROJ}.{tensor}"
    for changed, message in (({}, "is missing"), ({name: tensors[name].T}, r"has shape .*, expected")):
        kept = {key: value for key, value in tensors.items() if key != name} | changed
        header = encode_header({key: (value.dtype.name, value.shape) for key, value in kept.items()})
        data = b"".join(np.ascontiguousarray(value).tobytes() for value in kept.values())
        (tmp_path / "ckpt" / "rank0.safetensors").write_bytes(header + data)
        with pytest.raises(CheckpointError, match=rf"mlp\.proj\.{tensor} {message}"):
            Checkpoint.open(tmp_path / "ckpt")
