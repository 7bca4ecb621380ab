"""Quantized sources whose integers and scales go into the checkpoint: every number there is the source's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.codebooks import CODEBOOKS
from inflight.convert.quantization.round_to_nearest import unpack_pairs
from inflight.convert.source.model import open_source
from inflight.convert.source.tensor import Array, SourceTensor
from inflight.errors import InflightError, ModelError
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.models.quantized_files import FIXTURES, IDS, PACKERS, Matrix, quantization_config, random_matrix

pytestmark = pytest.mark.unit

LAYER = "model.layers.0"
PARTS = {
    "attention.qkv": [f"self_attn.{name}_proj" for name in "qkv"],
    "attention.dense": ["self_attn.o_proj"],
    "mlp.fc": ["mlp.gate_proj"],
    "mlp.gate": ["mlp.up_proj"],
    "mlp.proj": ["mlp.down_proj"],
}
# Directories of fixtures, and what their levels are.
KEPT = {
    "int4_groups": "int4",
    "int4_zero_points": "int4",
    "int8_packed": "int8",
    "int8_w8a8": "int8",
    "int8_zero_points": "int8",
    "mxfp4": "e2m1",
    "awq": "int4",
    "gptq_int4": "int4",
    "gptq_int8": "int8",
    "bitsandbytes_nf4": "nf4",
    "bitsandbytes_fp4": "fp4",
}


def wide_numbers(tensor: SourceTensor) -> Array:
    """(level - zero) * scale in float64."""
    found = tensor.levels(0, tensor.shape[0])
    assert found is not None, tensor.name
    numbers = CODEBOOKS[found.codebook][found.levels] if found.codebook else found.levels
    levels = numbers.astype(np.float64)
    if found.zeros is not None:
        levels -= found.zeros[:, found.groups]
    values: Array = levels * found.scales.astype(np.float64)[:, found.groups]
    return values


def stored_numbers(checkpoint: Checkpoint, module: str) -> Array:
    """level * scale + zero of a module of the checkpoint in float64."""
    quantization = checkpoint.quantization_of(module)
    assert quantization is not None, module
    scales = checkpoint.array(quantization.scale_name(module)).astype(np.float64)
    stored = checkpoint.array(f"{module}.weight")
    codebook = quantization.codebook
    levels = unpack_pairs(stored, len(scales), signed=codebook is None) if quantization.bits == 4 else stored
    levels = CODEBOOKS[codebook].astype(np.float64)[levels] if codebook else levels
    size = quantization.group_size or levels.shape[1]
    groups = np.arange(levels.shape[1]) // size
    zero = quantization.zero_name(module)
    zeros = 0.0 if zero is None else checkpoint.array(zero).astype(np.float64)[:, groups]
    numbers: Array = levels * scales.reshape(len(levels), -1)[:, groups] + zeros
    return numbers


@pytest.mark.parametrize("model", FIXTURES, ids=IDS)
def test_what_other_tools_quantized_keeps_its_numbers(tmp_path: Path, model: Path) -> None:
    notes = convert_model(model, tmp_path / "checkpoint")
    checkpoint, source = Checkpoint.open(tmp_path / "checkpoint"), open_source(model, None)
    label = KEPT.get(model.name)
    if label is None and "awq" not in model.name:
        assert not checkpoint.config.module_quantization.algorithms
        assert any(note.endswith(f"{source.quantized} dequantized.") for note in notes)
        return
    quantization = checkpoint.config.module_quantization
    assert quantization.kept_from_source and not quantization.rounded_by_convert
    for module, names in PARTS.items():
        tensors = [source.tensors[f"{LAYER}.{name}.weight"] for name in names]
        path = f"transformer.layers.0.{module}"
        if label is None and checkpoint.quantization_of(path) is None:
            assert any(tensor.form is None for tensor in tensors) or module in ("mlp.fc", "mlp.gate")
            continue
        expected = np.concatenate([wide_numbers(tensor) for tensor in tensors])
        np.testing.assert_array_equal(stored_numbers(checkpoint, path), expected)
        np.testing.assert_array_equal(checkpoint.matrix(path), expected.astype(np.float32))
        # The tool rounds a product to its own type.
        made = np.concatenate([tensor.rows(0, tensor.shape[0]) for tensor in tensors])
        np.testing.assert_array_equal(checkpoint.matrix(path).astype(made.dtype), made)
    if label is not None:
        assert any(note.endswith(f"that keep their numbers: 7 of {label}.") for note in notes), notes


def model_of(
    directory: Path, rng: np.random.Generator, method: str, layers: int = 2, **given: Any
) -> dict[str, Matrix]:
    """Write a model with random integers; its matrices by name. `given` goes to `random_matrix`."""
    config = tiny_config(hidden_size=64, intermediate_size=96, head_dim=8, num_hidden_layers=layers)
    tensors, matrices = random_tensors(config, rng), {}
    bits, size = given.pop("bits", 4), given.pop("size", 16)
    settings = {"ordered": True, "symmetric": method == "modelopt", **given}
    for name in [name for name in tensors if "_proj.weight" in name]:
        rows, width = tensors.pop(name).shape
        matrices[name] = random_matrix(rng, rows, width, bits, size, **settings)
        parts = PACKERS[method](matrices[name])
        tensors |= {f"{name.removesuffix('.weight')}.{part}": array for part, array in parts.items()}
    write_model(directory, config | {"quantization_config": quantization_config(method, bits, size)}, tensors)
    return matrices


def wide(matrix: Matrix) -> Array:
    difference = matrix.levels.astype(np.float64) - matrix.zeros[:, matrix.groups]
    numbers: Array = difference * matrix.scales.astype(np.float64)[:, matrix.groups]
    return numbers


@pytest.mark.parametrize(
    ("method", "bits"),
    [("awq", 4), ("modelopt", 4), *((m, b) for m in ("gptq", "compressed-tensors") for b in (2, 4, 8))],
)
@pytest.mark.parametrize("size", [0, 16, 48])
def test_random_integers_are_in_the_checkpoint(
    tmp_path: Path, rng: np.random.Generator, method: str, bits: int, size: int
) -> None:
    if method == "modelopt" and size == 48:
        pytest.skip("its groups divide a row")
    symmetric = method == "modelopt" or bool(rng.integers(2))
    matrices = model_of(tmp_path / "model", rng, method, bits=bits, size=size, symmetric=symmetric)
    convert_model(tmp_path / "model", tmp_path / "checkpoint")
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    for layer in range(2):
        for module, names in PARTS.items():
            listed = [matrices[f"model.layers.{layer}.{name}.weight"] for name in names]
            path = f"transformer.layers.{layer}.{module}"
            quantization = checkpoint.quantization_of(path)
            assert quantization is not None and quantization.bits == (4 if bits < 8 else 8)
            assert quantization.zero_points == (not symmetric) and quantization.activations == "int16"
            expected = np.concatenate([wide(matrix) for matrix in listed])
            # A zero point times a float32 scale is rounded; times one of 16 bits it is exact.
            spread = max(float(matrix.scales.astype(np.float32).max()) for matrix in listed) * 2**bits
            exact = symmetric or all(matrix.scales.dtype != np.float32 for matrix in listed)
            atol = 0 if exact else spread * 2**-23
            np.testing.assert_allclose(stored_numbers(checkpoint, path), expected, rtol=0, atol=atol)
    assert checkpoint.quantization_of("lm_head") is None


def test_levels_without_an_order_and_too_small_groups_are_dequantized(tmp_path: Path, rng: np.random.Generator) -> None:
    model_of(tmp_path / "order", rng, "gptq", ordered=False)
    model_of(tmp_path / "small", rng, "gptq", size=8)
    for name in ("order", "small"):
        notes = convert_model(tmp_path / name, tmp_path / f"{name}-checkpoint")
        assert not Checkpoint.open(tmp_path / f"{name}-checkpoint").config.module_quantization.algorithms
        assert any("14 quantized tensors" in note and note.endswith("dequantized.") for note in notes)


@pytest.mark.parametrize(("tp_size", "pp_size"), [(2, 1), (1, 2), (2, 2)])
def test_ranks_hold_parts_of_the_whole(tmp_path: Path, rng: np.random.Generator, tp_size: int, pp_size: int) -> None:
    matrices = model_of(tmp_path / "model", rng, "gptq", symmetric=False)
    options = ConvertOptions(tp_size=tp_size, pp_size=pp_size)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", options)
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    for layer in range(2):
        stage, local = (layer, 0) if pp_size == 2 else (0, layer)
        for module, axis in (("mlp.proj", 1), ("mlp.fc", 0)):
            ranks = [
                checkpoint.matrix(f"transformer.layers.{local}.{module}", stage * tp_size + rank)
                for rank in range(tp_size)
            ]
            expected = wide(matrices[f"model.layers.{layer}.{PARTS[module][0]}.weight"])
            np.testing.assert_allclose(np.concatenate(ranks, axis=axis), expected, rtol=1e-6, atol=1e-5)


def test_a_split_inside_a_group_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    model_of(tmp_path / "model", rng, "gptq", size=0)
    with pytest.raises(ModelError, match=r"tp_size 2 cuts the 96 columns of mlp\.proj.*pass --dequantize"):
        convert_model(tmp_path / "model", tmp_path / "out", ConvertOptions(tp_size=2))
    convert_model(tmp_path / "model", tmp_path / "out", ConvertOptions(tp_size=2, dequantize=True))


def test_a_scale_that_is_no_number_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    model_of(tmp_path / "model", rng, "gptq")
    path, name = tmp_path / "model" / "model.safetensors", f"{LAYER}.mlp.up_proj"
    tensors = load_file(path)
    scales = tensors[f"{name}.scales"].copy()
    scales[1, 5] = np.nan
    save_file(tensors | {f"{name}.scales": scales}, path)
    with pytest.raises(ModelError, match=rf"{name}\.weight holds infinities or NaN"):
        convert_model(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_checkpoint_says_that_nothing_was_rounded(tmp_path: Path, rng: np.random.Generator) -> None:
    model_of(tmp_path / "model", rng, "awq")
    convert_model(tmp_path / "model", tmp_path / "checkpoint")
    said = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert {record["rounding"] for record in said["inflight"]["module_quantization"]} == {"kept"}
    with pytest.raises(InflightError, match="--dequantize has no effect here"):
        convert_model(tmp_path / "model", tmp_path / "out", ConvertOptions(dequantize=True, quantize="int8_wo"))
