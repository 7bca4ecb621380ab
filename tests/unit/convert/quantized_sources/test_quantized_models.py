"""Models that other tools quantized: bit for bit the numbers that those tools dequantize them to."""

from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inflight.convert import writer
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization import chunks
from inflight.convert.source.model import open_source
from inflight.convert.source.tensor import Array, SourceTensor
from inflight.dtypes import numpy_dtype
from inflight.errors import ModelError
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.models.quantized_files import FIXTURES, IDS, PACKERS, Matrix, quantization_config, random_matrix, rewrite

pytestmark = pytest.mark.unit

QKV = [f"model.layers.0.self_attn.{name}_proj.weight" for name in "qkv"]


def in_spans(tensor: SourceTensor, rng: np.random.Generator) -> Array:
    """All rows, read in spans of any length."""
    cuts = sorted({0, tensor.shape[0], *map(int, rng.integers(0, tensor.shape[0], 4))})
    return np.concatenate([tensor.rows(start, stop) for start, stop in pairwise(cuts)])


def raw(array: Array) -> bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).tobytes()


@pytest.mark.parametrize("model", FIXTURES, ids=IDS)
def test_every_matrix_is_what_its_tool_makes_of_it(tmp_path: Path, rng: np.random.Generator, model: Path) -> None:
    source = open_source(model, None)
    expected = json.loads((model / "expected.json").read_text())
    dtype = numpy_dtype(source.config["dtype"])
    assert len(expected) == 7
    for name, digest in expected.items():
        assert hashlib.sha256(raw(in_spans(source.tensors[name], rng).astype(dtype))).hexdigest() == digest, name
    assert source.quantized is not None and source.quantized.startswith("7 quantized tensors (")
    notes = convert_model(model, tmp_path / "checkpoint", ConvertOptions(dequantize=True))
    assert any(note.endswith(f"{source.quantized} dequantized.") for note in notes)
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    assert checkpoint.config.dtype == source.config["dtype"] and not checkpoint.config.module_quantization.algorithms
    qkv = np.concatenate([in_spans(source.tensors[name], rng).astype(dtype) for name in QKV])
    assert checkpoint.array("transformer.layers.0.attention.qkv.weight").tobytes() == raw(qkv)


def quantized_model(
    directory: Path, rng: np.random.Generator, method: str, bits: int, size: int, **config: Any
) -> dict[str, Matrix]:
    """Write a model with random integers; its matrices by name."""
    given = tiny_config(hidden_size=32, intermediate_size=48, head_dim=4, num_hidden_layers=1, **config)
    tensors, matrices = random_tensors(given, rng), {}
    for name in [name for name in tensors if "_proj.weight" in name]:
        rows, width = tensors.pop(name).shape
        ordered = method in ("awq", "modelopt") or bool(rng.integers(2))
        symmetric = method == "modelopt"
        matrix = random_matrix(rng, rows, width, bits, size, ordered=ordered, symmetric=symmetric)
        matrices[name] = matrix
        module = name.removesuffix(".weight")
        tensors |= {f"{module}.{part}": array for part, array in PACKERS[method](matrix).items()}
    given["quantization_config"] = quantization_config(method, bits, size)
    write_model(directory, given, tensors)
    return matrices


CASES = [
    ("awq", 4),
    ("modelopt", 4),
    *((method, bits) for method in ("gptq", "compressed-tensors") for bits in (2, 4, 8)),
]


@pytest.mark.parametrize(("method", "bits"), CASES)
@pytest.mark.parametrize("size", [0, 8, 16])
def test_random_integers_come_back(tmp_path: Path, rng: np.random.Generator, method: str, bits: int, size: int) -> None:
    matrices = quantized_model(tmp_path / "model", rng, method, bits, size)
    source = open_source(tmp_path / "model", None)
    for name, matrix in matrices.items():
        tensor = source.tensors[name]
        assert raw(in_spans(tensor, rng)) == raw(matrix.numbers), name
        levels = tensor.levels(0, tensor.shape[0])
        neighbours = np.arange(len(matrix.groups)) // (size or len(matrix.groups))
        order = np.arange(len(neighbours)) if tensor.measured is None else tensor.measured.order
        assert (tensor.measured is None) == np.array_equal(matrix.groups, neighbours)
        assert levels is not None and raw(levels.values()) == raw(np.ascontiguousarray(matrix.numbers[:, order]))
        assert levels.size == (size or len(neighbours))
        assert levels.levels.min() >= -(1 << bits >> 1) and levels.levels.max() < 1 << bits >> 1
        difference = levels.levels - (0 if levels.zeros is None else levels.zeros[:, levels.groups])
        np.testing.assert_array_equal(difference, (matrix.levels - matrix.zeros[:, matrix.groups])[:, order])


def test_modules_of_gptq_may_have_bits_and_groups_of_their_own(tmp_path: Path, rng: np.random.Generator) -> None:
    matrices = quantized_model(tmp_path / "model", rng, "gptq", 4, 16)
    path = tmp_path / "model" / "model.safetensors"
    module = "model.layers.0.mlp.down_proj"
    other = random_matrix(rng, 32, 48, 8, 8, ordered=True, symmetric=False)
    matrices[f"{module}.weight"] = other
    own = {f"{module}.{part}": array for part, array in PACKERS["gptq"](other).items()}
    tensors = load_file(path) | own
    save_file(tensors, path)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["quantization_config"]["dynamic"] = {"+:.*down_proj": {"bits": 8, "group_size": 8}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    source = open_source(tmp_path / "model", None)
    for name, matrix in matrices.items():
        assert raw(in_spans(source.tensors[name], rng)) == raw(matrix.numbers), name


def test_quantizing_again_is_quantizing_the_dequantized_model(tmp_path: Path, rng: np.random.Generator) -> None:
    matrices = quantized_model(tmp_path / "model", rng, "gptq", 4, 16)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    plain = {
        name: array for name, array in stored.items() if not name.endswith(("qweight", "qzeros", "scales", "g_idx"))
    }
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    del config["quantization_config"]
    numbers = {name: matrix.numbers.astype(np.float32) for name, matrix in matrices.items()}
    write_model(tmp_path / "plain", config, plain | numbers)
    for name in ("model", "plain"):
        options = ConvertOptions(quantize="int8_wo", dtype="float32")
        convert_model(tmp_path / name, tmp_path / f"{name}-checkpoint", options)
    first, second = (Checkpoint.open(tmp_path / f"{name}-checkpoint") for name in ("model", "plain"))
    assert first.rank_file().read_bytes() == second.rank_file().read_bytes()


@pytest.mark.parametrize("dequantize", [True, False])
@pytest.mark.parametrize("method", list(PACKERS))
def test_memory_does_not_grow_with_a_quantized_model(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, method: str, dequantize: bool
) -> None:
    monkeypatch.setattr(writer, "CHUNK_BYTES", 1 << 18)
    monkeypatch.setattr(chunks, "_BLOCK_VALUES", 1 << 14)
    monkeypatch.setattr("inflight.files.atomic._CHUNK", 1 << 16)
    config = tiny_config(hidden_size=256, intermediate_size=2048, head_dim=32, num_hidden_layers=4)
    tensors = random_tensors(config, rng, "float16")
    for name in [name for name in tensors if "_proj.weight" in name]:
        rows, width = tensors.pop(name).shape
        matrix = random_matrix(rng, rows, width, 4, 128, ordered=True, symmetric=True)
        module = name.removesuffix(".weight")
        tensors |= {f"{module}.{part}": array for part, array in PACKERS[method](matrix).items()}
    write_model(tmp_path / "model", config | {"quantization_config": quantization_config(method, 4, 128)}, tensors)
    del tensors
    tracemalloc.start()
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(dtype="bfloat16", dequantize=dequantize))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert Checkpoint.open(tmp_path / "checkpoint").rank_file().stat().st_size > (13 if dequantize else 3) << 20
    assert peak < 2 << 20


@pytest.mark.parametrize("method", ["fp8", "fbgemm_fp8", "compressed-tensors", "modelopt"])
@pytest.mark.parametrize("share", ["matrix", "row", "block"])
def test_random_8_bit_floats_come_back(tmp_path: Path, rng: np.random.Generator, method: str, share: str) -> None:
    """Blocks that do not divide the matrix, and every spelling of a scale that is one for all."""
    if share == "block" and method in ("fbgemm_fp8", "modelopt"):
        pytest.skip("has no blocks of any size")
    given = tiny_config(hidden_size=32, intermediate_size=48, head_dim=4, num_hidden_layers=1)
    block = [int(size) for size in rng.integers(5, 20, 2)]
    stored: dict[str, tuple[str, list[int], bytes]] = {}
    expected: dict[str, Array] = {}
    for name, tensor in random_tensors(given, rng).items():
        if "_proj" not in name:
            stored[name] = ("F32", list(tensor.shape), tensor.tobytes())
            continue
        rows, width = tensor.shape
        levels = tensor.astype(ml_dtypes.float8_e4m3fn)
        grid = {"matrix": (1, 1), "row": (rows, 1), "block": (-(-rows // block[0]), -(-width // block[1]))}[share]
        scales = rng.uniform(0.01, 1, grid).astype(np.float32)
        sizes = {"matrix": (rows, width), "row": (1, width), "block": tuple(block)}[share]
        wide = np.repeat(np.repeat(scales, sizes[0], axis=0)[:rows], sizes[1], axis=1)[:, :width]
        expected[name] = levels.astype(np.float32) * wide
        shape = [[], [1], [1, 1]][rng.integers(3)] if share == "matrix" else list(grid)
        scale_name = (
            "weight_scale_inv" if (method == "fp8" and rng.random() < 0.5) or share == "block" else "weight_scale"
        )
        scale_name = "weight_scale" if method != "fp8" else scale_name
        module = name.removesuffix(".weight")
        stored[name] = ("F8_E4M3", [rows, width], levels.tobytes())
        stored[f"{module}.{scale_name}"] = ("F32", shape, scales.tobytes())
        stored[f"{module}.input_scale"] = ("F32", [], np.float32(1).tobytes())
    config: dict[str, Any] = {"quant_method": method}
    if method == "compressed-tensors":
        weights = {"num_bits": 8, "type": "float", "block_structure": block if share == "block" else None}
        config |= {"format": "float-quantized", "config_groups": {"group_0": {"weights": weights}}}
    elif method == "modelopt":
        config["quant_algo"] = "FP8"
    elif share == "block":
        config["weight_block_size"] = block
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(given | {"quantization_config": config}))
    rewrite(tmp_path / "model", stored)
    source = open_source(tmp_path / "model", None)
    for name, numbers in expected.items():
        assert raw(in_spans(source.tensors[name], rng)) == raw(numbers), name


def test_an_order_of_groups_that_are_not_there_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    quantized_model(tmp_path / "model", rng, "gptq", 4, 16)
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.mlp.up_proj.g_idx"
    tensors[name] = tensors[name] + 1
    save_file(tensors, path)
    with pytest.raises(ModelError, match=rf"{name} names groups beyond the 2"):
        convert_model(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_early_export_of_modelopt_says_it_in_a_file_of_its_own(tmp_path: Path) -> None:
    fixture = next(path for path in FIXTURES if path.parts[-2:] == ("modelopt", "fp8"))
    copy = Path(shutil.copytree(fixture, tmp_path / "model"))
    config = json.loads((copy / "config.json").read_text())
    quantization = {"quant_algo": config.pop("quantization_config")["quant_algo"]}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "hf_quant_config.json").write_text(json.dumps({"quantization": quantization}))
    source = open_source(copy, None)
    assert source.quantized == "7 quantized tensors (7 ModelOpt FP8)"
    assert copy / "hf_quant_config.json" in source.files()
