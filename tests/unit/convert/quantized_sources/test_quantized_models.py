"""Models that other tools quantized: bit for bit the numbers that those tools dequantize them to."""

from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inflight.convert import writer
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.convert.source.model import open_source
from inflight.convert.source.tensor import Array, SourceTensor
from inflight.dtypes import numpy_dtype
from inflight.errors import ModelError
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.models.quantized_files import PACKERS, Matrix, quantization_config, random_matrix
from tests.paths import ROOT

pytestmark = pytest.mark.unit

FIXTURES = sorted(path.parent for path in (ROOT / "tests" / "models" / "quantized").glob("*/*/expected.json"))
IDS = [f"{path.parent.name}-{path.name}" for path in FIXTURES]
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
    assert source.dequantized is not None and source.dequantized.startswith("7 quantized tensors (")
    notes = convert_model(model, tmp_path / "checkpoint")
    assert any(source.dequantized in note for note in notes)
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    assert checkpoint.config.dtype == source.config["dtype"] and checkpoint.quantization is None
    qkv = np.concatenate([in_spans(source.tensors[name], rng).astype(dtype) for name in QKV])
    assert checkpoint.array("transformer.layers.0.attention.qkv.weight").tobytes() == raw(qkv)


@pytest.mark.parametrize("model", FIXTURES, ids=IDS)
def test_a_missing_part_is_named(tmp_path: Path, rng: np.random.Generator, model: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    parts = [name for name in raw_tensors(copy) if ".layers." in name and "norm" not in name]
    needed = [name for name in parts if not name.endswith(SPARE)]
    lost = needed[rng.integers(len(needed))]
    rewrite(copy, {name: array for name, array in raw_tensors(copy).items() if name != lost})
    with pytest.raises(ModelError) as error:
        convert_model(copy, tmp_path / "out")
    assert lost.rpartition(".")[0].removesuffix(".weight") in str(error.value)
    assert not (tmp_path / "out").exists()


# Without these a matrix still is one: zero points that are all the same, scales of activations, an order that is none.
SPARE = (
    "g_idx",
    "input_scale",
    "weight_scale_2",
    "pre_quant_scale",
    "weight_zero_point",
    "weight_format",
)


def raw_tensors(model: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Type, shape and bytes of each tensor: the package has no NumPy type for 8-bit floats."""
    content = (model / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    return {
        name: (facts["dtype"], facts["shape"], data[slice(*facts["data_offsets"])])
        for name, facts in header.items()
        if name != "__metadata__"
    }


def rewrite(model: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    header: dict[str, Any] = {}
    place = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + len(data)]}
        place += len(data)
    text = json.dumps(header).encode()
    body = b"".join(data for _, _, data in tensors.values())
    (model / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)


@pytest.mark.parametrize("model", FIXTURES, ids=IDS)
def test_a_misshapen_part_is_named(tmp_path: Path, rng: np.random.Generator, model: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    tensors = raw_tensors(copy)
    parts = [name for name in tensors if ".down_proj." in name and not name.endswith((*SPARE, "nested_quant_map"))]
    changed = parts[rng.integers(len(parts))]
    dtype, shape, data = tensors[changed]
    # Twice as long: every part but a scale that goes with anything is then of a wrong shape.
    tensors[changed] = (dtype, [2 * (shape or [1])[0], *shape[1:]], data + data)
    rewrite(copy, tensors)
    with pytest.raises(ModelError, match="down_proj"):
        convert_model(copy, tmp_path / "out")


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
        assert levels is not None and raw(levels.values()) == raw(matrix.numbers)
        ordered = np.array_equal(matrix.groups, np.arange(len(matrix.groups)) // (size or len(matrix.groups)))
        assert levels.size == ((size or len(matrix.groups)) if ordered else None)
        difference = levels.levels - (0 if levels.zeros is None else levels.zeros[:, levels.groups])
        np.testing.assert_array_equal(difference, matrix.levels - matrix.zeros[:, matrix.groups])


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


@pytest.mark.parametrize("method", list(PACKERS))
def test_memory_does_not_grow_with_a_quantized_model(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(writer, "CHUNK_BYTES", 1 << 18)
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
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(dtype="bfloat16"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert Checkpoint.open(tmp_path / "checkpoint").rank_file().stat().st_size > 13 << 20
    assert peak < 2 << 20


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"quant_method": "hqq"}, r"method 'hqq' \(supported: gptq, awq, compressed-tensors, fp8"),
        ({"quant_method": "auto-round"}, "method 'auto-round'"),
        ({"bits": 4}, "method 'unknown'"),
        ({"quant_method": "gptq", "bits": 3}, r"gptq with bits 3 \(supported: 2, 4, 8\)"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "group_size 0"),
        ({"quant_method": "awq", "bits": 8}, "awq with bits 8"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, r"version 'gemv' \(supported: gemm\)"),
        ({"quant_method": "fp8", "weight_block_size": [0, 1]}, r"weight_block_size \[0, 1\]"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "quant_algo 'NVFP4'"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "format 'marlin-24'"),
        ({"config_groups": {"a": {"weights": {"num_bits": 5}}}}, "compressed-tensors with num_bits 5"),
        ({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        ({"quant_method": "compressed-tensors", "transform_config": {"R1": {}}}, "transform_config"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "int4"}, "'int4'"),
        ("gptq", "must be an object"),
        ({"quant_method": "gptq", "bits": 4}, "no tensor is stored in a way of this method"),
    ],
)
def test_what_is_not_supported_is_named_with_what_is(
    tmp_path: Path, rng: np.random.Generator, config: Any, problem: str
) -> None:
    given = tiny_config(num_hidden_layers=1)
    write_model(tmp_path / "model", given | {"quantization_config": config}, random_tensors(given, rng))
    with pytest.raises(ModelError, match=problem):
        convert_model(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
    assert source.dequantized == "7 quantized tensors (7 ModelOpt FP8)"
    assert copy / "hf_quant_config.json" in source.files()
