"""Quantized models that are damaged, or quantized in a way that is not read: each has a message; nothing is written."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.convert.api import convert_model, plan_source
from inflight.convert.options import ConvertOptions
from inflight.convert.source.model import open_source
from inflight.errors import ModelError
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.models.quantized_files import FIXTURES, IDS, raw_tensors, rewrite

pytestmark = pytest.mark.unit


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


# Without these a matrix of such a model would be read as other numbers: its config says that it has them.
ANNOUNCED = {
    **dict.fromkeys(("int4_zero_points", "int8_zero_points", "int8_packed"), "weight_zero_point"),
    "awq": "qzeros",
    "gptq_desc_act": "g_idx",
}


@pytest.mark.parametrize("model", [path for path in FIXTURES if path.name in ANNOUNCED], ids=lambda path: path.name)
@pytest.mark.parametrize("options", [{}, {"dequantize": True}, {"quantize": "int8_wo"}])
def test_a_part_that_the_config_announces_is_missed(
    tmp_path: Path, rng: np.random.Generator, model: Path, options: dict[str, Any]
) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    tensors = raw_tensors(copy)
    parts = [name for name in tensors if name.endswith(ANNOUNCED[model.name])]
    lost = set(rng.choice(parts, int(rng.integers(1, len(parts) + 1)), replace=False))
    rewrite(copy, {name: array for name, array in tensors.items() if name not in lost})
    with pytest.raises(ModelError) as error:
        convert_model(copy, tmp_path / "out", ConvertOptions.model_validate(options))
    assert all(f"missing tensor: {name}" in str(error.value) for name in lost)


def test_a_config_of_another_method_is_shown_a_tensor_that_it_does_not_have(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    others = {"awq": "fp8", "gptq_int4": "bitsandbytes_nf4", "fp8_blocks": "awq", "bitsandbytes_nf4": "gptq_int8"}
    name = str(rng.choice(list(others)))
    model, other = (next(path for path in FIXTURES if path.name == each) for each in (name, others[name]))
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    configs = [json.loads((path / "config.json").read_text()) for path in (copy, other)]
    changed = configs[0] | {"quantization_config": configs[1]["quantization_config"]}
    (copy / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ModelError, match=r"no tensor is stored .*; model\.\S+ is \S+, as other methods have it"):
        open_source(copy, None)


def test_packed_integers_of_which_the_config_says_no_bits_are_refused(tmp_path: Path) -> None:
    model = next(path for path in FIXTURES if path.name == "int4_groups")
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"]["config_groups"] = {}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config_groups says nothing of weights: model\.\S+ is packed"):
        open_source(copy, None)


def test_an_order_that_compressed_tensors_announces_is_missed(tmp_path: Path, rng: np.random.Generator) -> None:
    model = next(path for path in FIXTURES if path.name == "int4_groups")
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((copy / "config.json").read_text())
    weights = config["quantization_config"]["config_groups"]["group_0"]["weights"]
    for kind in ("weight", "static", None):
        weights["actorder"] = kind
        (copy / "config.json").write_text(json.dumps(config))
        plan_source(open_source(copy, None), ConvertOptions())
    weights["actorder"] = rng.choice(["group", "dynamic"])
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"missing tensor: model\.layers\.0\.self_attn\.q_proj\.weight_g_idx"):
        plan_source(open_source(copy, None), ConvertOptions())


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


@pytest.mark.parametrize("model", FIXTURES, ids=IDS)
def test_a_truncated_file_and_the_tensor_in_it_are_named(tmp_path: Path, rng: np.random.Generator, model: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    content, tensors = (copy / "model.safetensors").read_bytes(), raw_tensors(copy)
    cut = int(rng.integers(1, sum(len(data) for _, _, data in tensors.values())))
    (copy / "model.safetensors").write_bytes(content[:-cut])
    with pytest.raises(ModelError, match=r"model\.safetensors is truncated: .* tensor (\S+)\.\n?") as error:
        convert_model(copy, tmp_path / "out")
    assert any(f"tensor {name}." in str(error.value) for name in tensors)
    assert not (tmp_path / "out").exists()


# One number of each type that is none; of a byte, the exponent that stands for none.
NONE = {"F32": b"\0\0\xc0\x7f", "F16": b"\0\x7e", "BF16": b"\xc0\x7f", "F8_E4M3": b"\x7f", "U8": b"\xff"}
# The greatest that are some: as a scale they make numbers infinite.
GREATEST = {"F32": b"\xff\xff\x7f\x7f", "BF16": b"\x7f\x7f"}
SCALES = ("scales", "weight_scale", "weight_scale_inv", "SCB", "absmax", "weight")


@pytest.mark.parametrize("model", FIXTURES, ids=IDS)
@pytest.mark.parametrize("dequantize", [False, True])
def test_a_scale_or_a_float_that_is_no_number_names_its_tensor(
    tmp_path: Path, rng: np.random.Generator, model: Path, dequantize: bool
) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    tensors = raw_tensors(copy)
    floats = ("F32", "F16", "BF16", "F8_E4M3", *(("U8",) if "mxfp4" in model.name else ()))
    found = [
        name
        for name, (dtype, _, _) in tensors.items()
        if "_proj." in name and name.endswith(SCALES) and dtype in floats and not name.endswith("packed")
    ]
    broken = found[rng.integers(len(found))]
    dtype, shape, data = tensors[broken]
    is_scale = model.name.startswith("fp8") and not broken.endswith("weight")
    value = GREATEST.get(dtype, NONE[dtype]) if is_scale and rng.random() < 0.5 else NONE[dtype]
    tensors[broken] = (dtype, shape, value + data[len(value) :])
    rewrite(copy, tensors)
    module = broken[: broken.index("_proj") + len("_proj")]
    with pytest.raises(ModelError, match=rf"Tensor {module}\.weight holds infinities or NaN"):
        convert_model(copy, tmp_path / "out", ConvertOptions(dequantize=dequantize))
    assert not (tmp_path / "out").exists()


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
        ({"quant_method": "modelopt", "quant_algo": "W4A8_NVFP4_FP8"}, "quant_algo 'W4A8_NVFP4_FP8'"),
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


def nested(config: Any, value: Any) -> Iterator[Any]:
    """The config with each of its values, at any depth, replaced in turn."""
    for key, found in config.items():
        yield {**config, key: value}
        if isinstance(found, dict):
            yield from ({**config, key: changed} for changed in nested(found, value))


ODD_VALUES: list[Any] = [None, [], {}, [{}], "", "odd", -1, 0, 1.5, True, 1 << 40, [1, "a"], {"a": []}]


@pytest.mark.parametrize("model", FIXTURES, ids=IDS)
def test_no_value_of_a_quantization_config_ends_in_a_traceback(tmp_path: Path, model: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((copy / "config.json").read_text())
    for value in ODD_VALUES:
        for changed in nested(config["quantization_config"], value):
            (copy / "config.json").write_text(json.dumps(config | {"quantization_config": changed}))
            with contextlib.suppress(ModelError):
                plan_source(open_source(copy, None), ConvertOptions())


# Of NF4 with nested scales no bytes mean zeros.
ZEROED = [path for path in FIXTURES if path.name != "bitsandbytes_nf4"]


@pytest.mark.parametrize("model", ZEROED, ids=lambda path: f"{path.parent.name}-{path.name}")
@pytest.mark.parametrize("options", [{}, {"dequantize": True}, {"quantize": "int8_wo"}, {"quantize": "nf4"}])
def test_a_matrix_of_zeros_is_told(
    tmp_path: Path, rng: np.random.Generator, model: Path, options: dict[str, Any]
) -> None:
    """As a download that was stopped leaves them, of a file that got its size at the start."""
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    given = ConvertOptions.model_validate(options)
    assert not any("nothing but zeros" in note for note in convert_model(copy, tmp_path / "whole", given))
    tensors, module = raw_tensors(copy), f"model.layers.0.mlp.{rng.choice(['down_proj', 'up_proj'])}"
    parts = [name for name in tensors if name.startswith(module) and not name.endswith(DESCRIPTIONS)]
    rewrite(copy, tensors | {name: (*tensors[name][:2], bytes(len(tensors[name][2]))) for name in parts})
    notes = convert_model(copy, tmp_path / "out", given)
    assert [note for note in notes if f"nothing but zeros: 1 ({module}.weight)" in note]


# Parts that say what the others mean, and without which they mean nothing.
DESCRIPTIONS = (
    *("g_idx", "weight_shape", "quant_map", "pre_quant_scale", "weight_scale_2", "weight_zero_point"),
    *("weight_format", "quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__fp4"),
)
