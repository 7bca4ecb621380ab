"""Quantized checkpoints: their numbers, their files, their ranks, and those of other writers."""

from __future__ import annotations

import json
import tracemalloc
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
from inflight.convert.quantization.facts import SchemeName
from inflight.convert.quantization.round_to_nearest import dequantize, quantize_groups
from inflight.convert.quantization.schemes import RECIPES
from inflight.errors import CheckpointError, ModelError
from tests.models.hf_files import Array, random_tensors, tiny_config, write_model
from tests.models.schemes import calibrated_on, named_schemes, quantizing
from tests.unit.convert.test_checkpoint import edit_config

pytestmark = pytest.mark.unit

SCHEMES = ("int8_wo", "int8_w8a8", "int4_wo", "int4_w4a8", "nf4", "fp8_rowwise")
FC = "transformer.layers.1.mlp.fc"


def converted(directory: Path, config: dict[str, Any], tensors: dict[str, Array], **options: Any) -> Checkpoint:
    write_model(directory / "model", config, tensors)
    text = calibrated_on(directory / "model", *named_schemes(options))
    convert_model(directory / "model", directory / "checkpoint", ConvertOptions(progress=False, **options, **text))
    return Checkpoint.open(directory / "checkpoint")


def test_int8_has_one_scale_per_output_and_errs_by_half_a_step(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    tensors = random_tensors(config, rng)
    checkpoint = converted(tmp_path, config, tensors, quantize="int8_wo")
    source = tensors["model.layers.1.mlp.gate_proj.weight"]
    scales, levels = checkpoint.array(f"{FC}.per_channel_scale"), checkpoint.array(f"{FC}.weight")
    np.testing.assert_allclose(scales, np.abs(source).max(axis=1) / 127, rtol=1e-6)
    assert levels.dtype == np.int8 and (np.abs(levels).max(axis=1) == 127).all()
    assert (np.abs(levels * scales[:, None] - source) <= scales[:, None] * 0.50001).all()
    np.testing.assert_array_equal(checkpoint.matrix(FC), levels * scales[:, None])


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_int4_has_a_scale_per_group_and_the_even_output_in_the_low_half(
    tmp_path: Path, rng: np.random.Generator, group_size: int
) -> None:
    width = int(rng.integers(130, 300))
    config = tiny_config(hidden_size=width)
    tensors = random_tensors(config, rng)
    checkpoint = converted(tmp_path, config, tensors, quantize="int4_wo", group_size=group_size)
    source = tensors["model.layers.1.mlp.gate_proj.weight"]
    packed, scales = checkpoint.array(f"{FC}.weight"), checkpoint.array(f"{FC}.weights_scaling_factor")
    assert packed.shape == (14, width) and scales.shape == (28, -(-width // group_size))
    byte = packed.view(np.uint8).astype(int)
    nibbles = np.stack([byte % 16, byte // 16], axis=1).reshape(28, width)
    levels = np.where(nibbles > 7, nibbles - 16, nibbles)
    expected = levels * np.repeat(scales, group_size, axis=1)[:, :width]
    np.testing.assert_allclose(checkpoint.matrix(FC), expected, rtol=1e-6)
    free = dequantize(*quantize_groups(source, RECIPES["int4_wo"].divisors, group_size), group_size)
    whole = 0.0
    for start in range(0, width, group_size):
        group = source[:, start : start + group_size]
        plain = np.abs(group).max(axis=1, keepdims=True) / 7
        lost = np.square(np.rint(group / plain) * plain - group).sum(axis=1)
        whole += float(lost.sum())
        error = np.square(free[:, start : start + group_size] - group).sum(axis=1)
        assert (error <= lost * 1.00001).all()
    # Multiples of a unit do not serve every group, but all together.
    assert np.square(checkpoint.matrix(FC) - source).sum() < whole


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_matrices_are_quantized_and_the_rest_stays_as_it_was(
    tmp_path: Path, rng: np.random.Generator, scheme: str
) -> None:
    config = tiny_config("qwen2")
    tensors = random_tensors(config, rng)
    plain = converted(tmp_path / "plain", config, tensors)
    quantized = converted(tmp_path / "quantized", config, tensors, **quantizing(scheme, 32))
    for name, entry in plain.tensors.items():
        matrix = len(entry.shape) == 2 and "vocab_embedding" not in name
        if not matrix:
            assert quantized.array(name).tobytes() == plain.array(name).tobytes()
            continue
        module = name.removesuffix(".weight")
        if module == "lm_head" and scheme == "fp8_rowwise":
            assert quantized.tensors[name].dtype == plain.tensors[name].dtype
            continue
        assert quantized.tensors[name].dtype == ("float8_e4m3fn" if "fp8" in scheme else "int8")
        relative = np.linalg.norm(quantized.matrix(module) - plain.matrix(module)) / np.linalg.norm(
            plain.matrix(module)
        )
        assert relative < {"int4": 0.15, "nf4": 0.15, "int8": 0.01, "fp8_": 0.05}[scheme[:4]], name


@pytest.mark.parametrize(
    ("scheme", "algorithm", "activations", "layout"),
    [
        ("int8_wo", "W8A16", "int16", "out_in"),
        ("int8_w8a8", "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", "int8", "out_in"),
        ("int4_wo", "W4A16_AWQ", "int16", None),
        ("int4_w4a8", "W4A16_AWQ", "int8", None),
        ("fp8_rowwise", "FP8_PER_CHANNEL_PER_TOKEN", "float8_e4m3fn", None),
    ],
)
def test_the_config_names_the_algorithm_and_guards_int8_from_other_readers(
    tmp_path: Path, rng: np.random.Generator, scheme: str, algorithm: str, activations: str, layout: str | None
) -> None:
    config = tiny_config()
    head = () if "fp8" in scheme else (("lm_head", scheme),)
    options = quantizing(scheme, 64) | {"module_schemes": head}
    checkpoint = converted(tmp_path, config, random_tensors(config, rng), **options)
    written = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    block = written["quantization"]
    group_size = quantizing(scheme, 64).get("group_size", 128)
    assert (block["quant_algo"], block["group_size"], block.get("weight_layout")) == (algorithm, group_size, layout)
    assert (block["has_zero_point"], block["pre_quant_scale"]) == (False, False)
    # The format's own reader keeps the projection plain where it reads 8-bit floats.
    assert block["exclude_modules"] == [*(["*lm_head"] if "fp8" in scheme else []), "*vocab_embedding"]
    assert written["inflight"]["quantization"]["scheme"] == scheme
    assert not (tmp_path / "checkpoint" / "quant_cfg.json").exists()
    quantization = checkpoint.quantization_of(FC)
    assert quantization is not None and quantization.activations == activations


def test_a_plain_config_has_none_of_our_quantization_keys(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    converted(tmp_path, config, random_tensors(config, rng))
    written = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert "weight_layout" not in written["quantization"] and "quantization" not in written["inflight"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("tp_size", [2, 4])
def test_ranks_hold_exact_parts_of_the_whole_checkpoint(
    tmp_path: Path, rng: np.random.Generator, scheme: str, tp_size: int
) -> None:
    config = tiny_config(hidden_size=40, num_attention_heads=8, head_dim=16, intermediate_size=256, vocab_size=45)
    tensors = random_tensors(config, rng, "bfloat16")
    options = {**quantizing(scheme, 32), "dtype": "bfloat16"}
    whole = converted(tmp_path / "one", config, tensors, **options)
    split = converted(tmp_path / "many", config, tensors, tp_size=tp_size, **options)
    ranks = range(tp_size)
    for module, axis in ((FC, 0), ("transformer.layers.1.mlp.proj", 1), ("transformer.layers.1.attention.dense", 1)):
        parts = [split.matrix(module, rank) for rank in ranks]
        np.testing.assert_array_equal(np.concatenate(parts, axis=axis), whole.matrix(module))
    head = np.concatenate([split.matrix("lm_head", rank) for rank in ranks])
    np.testing.assert_array_equal(head[:45], whole.matrix("lm_head"))
    assert not head[45:].any()
    qkv = [np.split(split.matrix("transformer.layers.0.attention.qkv", rank), [128 // tp_size]) for rank in ranks]
    q, kv = (np.concatenate(parts) for parts in zip(*qkv, strict=True))
    np.testing.assert_array_equal(q, whole.matrix("transformer.layers.0.attention.qkv")[:128])
    assert len(kv) == 128


def test_a_cut_inside_a_group_is_refused_with_the_sizes(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config(intermediate_size=96)
    with pytest.raises(ModelError, match=r"tp_size 2 cuts the 96 columns of mlp\.proj inside a group of 32"):
        converted(tmp_path, config, random_tensors(config, rng), quantize="int4_wo", group_size=32, tp_size=2)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("scheme", ["int8_wo", "int4_wo"])
def test_a_tied_model_gets_a_quantized_projection_beside_its_embedding(
    tmp_path: Path, rng: np.random.Generator, scheme: str
) -> None:
    config = tiny_config(tie_word_embeddings=True)
    tensors = random_tensors(config, rng)
    checkpoint = converted(tmp_path, config, tensors, quantize=scheme)
    assert not checkpoint.ties_embeddings and checkpoint.config.tie_word_embeddings
    embedding = tensors["model.embed_tokens.weight"]
    np.testing.assert_array_equal(checkpoint.array("transformer.vocab_embedding.weight"), embedding)
    assert np.abs(checkpoint.matrix("lm_head") - embedding).max() < np.abs(embedding).max() / 6
    stored = load_file(tmp_path / "checkpoint" / "rank0.safetensors")
    del stored["lm_head.weight"]
    save_file(stored, tmp_path / "checkpoint" / "rank0.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing"):
        Checkpoint.open(tmp_path / "checkpoint")


def test_excluded_modules_stay_plain(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config(tie_word_embeddings=True)
    excluded = ("lm_head", "*.1.mlp.*")
    checkpoint = converted(
        tmp_path, config, random_tensors(config, rng), quantize="int8_w8a8", exclude_modules=excluded
    )
    assert checkpoint.ties_embeddings
    assert checkpoint.tensors[f"{FC}.weight"].dtype == "float32"
    assert checkpoint.tensors["transformer.layers.0.mlp.fc.weight"].dtype == "int8"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(
    tmp_path: Path, rng: np.random.Generator, value: float
) -> None:
    config = tiny_config()
    tensors = random_tensors(config, rng)
    tensors["model.layers.2.mlp.down_proj.weight"][3, 5] = value
    with pytest.raises(ModelError, match=r"layers\.2\.mlp\.down_proj\.weight holds infinities or NaN"):
        converted(tmp_path, config, tensors, quantize="int4_wo")


@pytest.mark.parametrize("scheme", ["int8_wo", "int4_wo"])
def test_rows_of_zeros_stay_zeros(tmp_path: Path, rng: np.random.Generator, scheme: str) -> None:
    config = tiny_config()
    tensors = random_tensors(config, rng, "bfloat16")
    tensors["model.layers.1.mlp.gate_proj.weight"][4:7] = ml_dtypes.bfloat16(0)
    matrix = converted(tmp_path, config, tensors, quantize=scheme).matrix(FC)
    assert not matrix[4:7].any() and matrix[3].any()


@pytest.mark.parametrize("scheme", ["int8_wo", "int4_wo"])
def test_memory_does_not_grow_with_a_quantized_model(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, scheme: SchemeName
) -> None:
    monkeypatch.setattr(writer, "CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr("inflight.files.atomic._CHUNK", 1 << 16)
    config = tiny_config(hidden_size=256, intermediate_size=1024, vocab_size=4000, num_hidden_layers=4, head_dim=32)
    tensors = random_tensors(config, rng)
    write_model(tmp_path / "model", config, tensors)
    tracemalloc.start()
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(quantize=scheme, tp_size=2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(tensor.nbytes for tensor in tensors.values()) > 16 << 20
    assert peak < 2 << 20


def test_the_layout_of_other_writers_is_read_without_our_keys(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    tensors = random_tensors(config, rng)
    ours = converted(tmp_path, config, tensors, quantize="int4_w4a8", exclude_modules=("lm_head",))

    def as_another_writes(config: dict[str, Any]) -> None:
        for key in ("inflight", "tie_word_embeddings"):
            config.pop(key, None)
        config["producer"] = {"name": "modelopt", "version": "0.47.0"}
        config["quantization"] = {"quant_algo": "W4A16_AWQ", "group_size": 32, "exclude_modules": ["lm_head"]}

    edit_config(tmp_path / "checkpoint", as_another_writes)
    theirs = Checkpoint.open(tmp_path / "checkpoint")
    quantization = theirs.quantization_of(FC)
    assert quantization is not None and quantization.activations == "int16"
    np.testing.assert_array_equal(theirs.matrix(FC), ours.matrix(FC))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_algo": "W8A16"}, "quant_algo 'W8A16' with weights laid out for a GPU"),
        ({"quant_algo": "FP8", "pre_quant_scale": True}, "with pre_quant_scale"),
        ({"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN", "use_meta_recipe": True}, "with use_meta_recipe"),
        ({"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN", "clamp_val": [1.0, 2.0]}, "with clamp_val"),
        ({"quant_algo": "W8A16", "weight_layout": "out_in", "has_zero_point": True}, "with has_zero_point"),
        ({"quant_algo": "W4A16_AWQ", "has_zero_point": True}, "'W4A16_AWQ' with weights laid out for a GPU"),
        ({"quant_algo": "W4A16_GPTQ"}, "quant_algo 'W4A16_GPTQ' .supported: W4A16_AWQ"),
        ({"quant_algo": "MIXED_PRECISION"}, "no quant_cfg.json, which MIXED_PRECISION asks for"),
        ({"quant_algo": "W8A16", "weight_layout": "in_out"}, "weight_layout"),
    ],
)
def test_algorithms_that_nobody_here_can_run_are_refused_by_name(
    tmp_path: Path, rng: np.random.Generator, change: dict[str, Any], message: str
) -> None:
    config = tiny_config()
    converted(tmp_path, config, random_tensors(config, rng))
    edit_config(tmp_path / "checkpoint", lambda config: config["quantization"].update(change))
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(tmp_path / "checkpoint")


def test_a_lost_scale_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    converted(tmp_path, config, random_tensors(config, rng), quantize="int8_wo")
    stored = load_file(tmp_path / "checkpoint" / "rank0.safetensors")
    del stored[f"{FC}.per_channel_scale"]
    save_file(stored, tmp_path / "checkpoint" / "rank0.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.fc\.per_channel_scale is missing"):
        Checkpoint.open(tmp_path / "checkpoint")
