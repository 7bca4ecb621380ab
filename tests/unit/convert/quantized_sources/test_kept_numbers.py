"""Quantized sources whose integers and scales go into the checkpoint: every number there is the source's own."""

from __future__ import annotations

import json
import re
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
    "bitsandbytes_int8": "int8",
    "gptq_desc_act": "int4",
    "int4_awq": "int4",
    "w4a8_awq": "int4",
    "int8_sq": "int8",
    "fp8": "fp8",
    "fp8_rows": "fp8",
    "fp8_blocks": "fp8",
    "fp8_static": "fp8",
    "fp8_dynamic": "fp8",
}


def wide_numbers(tensor: SourceTensor) -> Array:
    """(level - zero) * scale in float64, in the order in which levels are kept."""
    found = tensor.levels(0, tensor.shape[0])
    assert found is not None, tensor.name
    numbers = CODEBOOKS[found.codebook][found.levels] if found.codebook else found.levels
    levels = numbers.astype(np.float64)
    if found.zeros is not None:
        levels -= found.zeros[:, found.groups]
    values: Array = levels * found.scales.astype(np.float64)[:, found.groups]
    return values


def stored_numbers(checkpoint: Checkpoint, module: str) -> Array:
    """level * scale + zero of a module of the checkpoint in float64, in the order in which they lie there."""
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
    label = KEPT[model.name]
    quantization = checkpoint.config.module_quantization
    assert quantization.kept_from_source and not quantization.rounded_by_convert
    for module, names in PARTS.items():
        tensors = [source.tensors[f"{LAYER}.{name}.weight"] for name in names]
        path = f"transformer.layers.0.{module}"
        if checkpoint.quantization_of(path) is None:
            # The file was made of matrices whose inputs are each in an order of their own.
            assert model.name == "gptq_desc_act" and module in ("attention.qkv", "mlp.fc", "mlp.gate")
            continue
        expected = np.concatenate([wide_numbers(tensor) for tensor in tensors])
        np.testing.assert_array_equal(stored_numbers(checkpoint, path), expected)
        measured, factors = tensors[0].measured, checkpoint.input_factors(path)
        if measured is not None and measured.order is not None:
            expected = expected[:, np.argsort(measured.order)]
        np.testing.assert_array_equal(checkpoint.matrix(path), expected.astype(np.float32))
        assert (factors is not None) == (measured is not None and measured.factors is not None)
        found = checkpoint.matrix(path) * (np.float32(1) if factors is None else factors.astype(np.float32))
        # The tool rounds a product to its own type; bitsandbytes multiplies by two numbers, one after the other.
        made = np.concatenate([tensor.rows(0, tensor.shape[0]) for tensor in tensors])
        if model.name == "bitsandbytes_int8":
            np.testing.assert_array_max_ulp(found, made, 1)
        else:
            np.testing.assert_array_equal(found.astype(made.dtype), made)
    kept = 2 if model.name == "gptq_desc_act" else 7
    assert any(f"that keep their numbers: {kept} of {label}" in note for note in notes), notes


def model_of(
    directory: Path, rng: np.random.Generator, method: str, layers: int = 2, **given: Any
) -> dict[str, Matrix]:
    """Write a model with random integers; its matrices by name. `given` goes to `random_matrix`. Unless they are
    `alone`, matrices that meet the same rows have the same order of inputs, as GPTQ gives them.
    """
    config = tiny_config(hidden_size=64, intermediate_size=96, head_dim=8, num_hidden_layers=layers)
    tensors, matrices = random_tensors(config, rng), {}
    bits, size = given.pop("bits", 4), given.pop("size", 16)
    alone = given.pop("alone", False)
    settings = {"ordered": True, "symmetric": method == "modelopt", **given}
    orders: dict[str, Array] = {}
    for name in [name for name in tensors if "_proj.weight" in name]:
        rows, width = tensors.pop(name).shape
        matrix = random_matrix(rng, rows, width, bits, size, **settings)
        meets = name if alone else re.sub(r"\.(q|k|v|gate|up)_proj", ".together", name)
        matrices[name] = matrix._replace(groups=orders.setdefault(meets, matrix.groups))
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


@pytest.mark.parametrize("method", ["gptq", "compressed-tensors"])
def test_groups_that_are_no_neighbours_are_kept_in_an_order_in_which_they_are(
    tmp_path: Path, rng: np.random.Generator, method: str
) -> None:
    matrices = model_of(tmp_path / "model", rng, method, ordered=False, symmetric=False)
    convert_model(tmp_path / "model", tmp_path / "checkpoint")
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    for module, names in PARTS.items():
        path = f"transformer.layers.1.{module}"
        listed = [matrices[f"model.layers.1.{name}.weight"] for name in names]
        quantization = checkpoint.quantization_of(path)
        assert quantization is not None and quantization.ordered_inputs and quantization.group_size == 16
        order = checkpoint.array(f"{path}.input_order")
        np.testing.assert_array_equal(listed[0].groups[order], np.arange(len(order)) // 16)
        expected = np.concatenate([wide(matrix) for matrix in listed])
        np.testing.assert_allclose(stored_numbers(checkpoint, path), expected[:, order], rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(checkpoint.matrix(path), expected, rtol=1e-6, atol=1e-5)
    with pytest.raises(ModelError, match=r"cuts the columns of attention\.dense, whose groups are no neighbours"):
        convert_model(tmp_path / "model", tmp_path / "out", ConvertOptions(tp_size=2))


def test_orders_that_differ_and_too_small_groups_are_dequantized(tmp_path: Path, rng: np.random.Generator) -> None:
    model_of(tmp_path / "order", rng, "gptq", ordered=False, alone=True)
    model_of(tmp_path / "small", rng, "gptq", size=8)
    for name, count in (("order", 10), ("small", 14)):
        notes = convert_model(tmp_path / name, tmp_path / f"{name}-checkpoint")
        algorithms = Checkpoint.open(tmp_path / f"{name}-checkpoint").config.module_quantization.algorithms
        assert bool(algorithms) == (name == "order")
        assert any(f"{count} quantized tensors" in note and note.endswith("dequantized.") for note in notes), notes


def test_factors_that_differ_or_lose_bits_are_dequantized(tmp_path: Path, rng: np.random.Generator) -> None:
    model_of(tmp_path / "model", rng, "modelopt")
    path, tensors = tmp_path / "model" / "model.safetensors", load_file(tmp_path / "model" / "model.safetensors")
    factors = {
        f"{LAYER}.{name}.pre_quant_scale": rng.uniform(0.5, 2, 96 if "down" in name else 64).astype(np.float16)
        for names in PARTS.values()
        for name in names
    }
    factors[f"{LAYER}.mlp.gate_proj.pre_quant_scale"] = factors[f"{LAYER}.mlp.up_proj.pre_quant_scale"]
    save_file(tensors | factors, path)
    for dtype, kept in (("float16", ["attention.dense", "mlp.fc", "mlp.gate", "mlp.proj"]), ("bfloat16", [])):
        convert_model(tmp_path / "model", tmp_path / dtype, ConvertOptions.model_validate({"dtype": dtype}))
        checkpoint = Checkpoint.open(tmp_path / dtype)
        of_layer = {module: checkpoint.quantization_of(f"transformer.layers.0.{module}") for module in PARTS}
        assert [module for module, each in of_layer.items() if each is not None and each.scaled_inputs] == sorted(kept)
        assert all(checkpoint.quantization_of(f"transformer.layers.1.{module}") is not None for module in PARTS)


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
