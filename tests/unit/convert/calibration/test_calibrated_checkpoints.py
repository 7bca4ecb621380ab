"""Checkpoints of calibrated schemes: their files, their ranks, and what an interrupted calibration leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from inflight.convert.api import convert_model
from inflight.convert.checkpoint.cache_factors import cache_factors
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.cost import seconds_per_token
from inflight.convert.quantization.schemes import RECIPES
from inflight.errors import InflightError
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.models.schemes import calibrated_on
from tests.patience import eventually

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("own_cache")]

Floats = npt.NDArray[np.float32]

CALIBRATED = [name for name, scheme in RECIPES.items() if scheme.method != "nearest"]
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
# Of a model whose calibration is killed behind the second: it has seconds to go then.
_LAYERS = 16
QKV, FC = "transformer.layers.1.attention.qkv", "transformer.layers.1.mlp.fc"


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator) -> Path:
    config = tiny_config(**SIZES)
    # Of weights near 1, logits are so large that any rounding changes the answers.
    drawn = random_tensors(config, rng).items()
    tensors = {name: array * np.float32(0.3 if array.ndim == 2 else 1) for name, array in drawn}
    write_model(tmp_path / "model", config, tensors)
    return tmp_path / "model"


def converted(model: Path, name: str, scheme: str, **options: Any) -> Checkpoint:
    text = calibrated_on(model, scheme)
    output = model.parent / name
    convert_model(
        model, output, ConvertOptions.model_validate({"quantize": scheme, "progress": False} | text | options)
    )
    return Checkpoint.open(output)


class Observed(NamedTuple):
    """Greatest magnitudes: of keys and values, [layers, 2], and of each input of the first layer's queries [hidden]."""

    cached: Floats
    rows: Floats


def run_by_transformers(model: Path) -> Observed:
    """What transformers makes of the text that a random model is calibrated on."""
    text = calibrated_on(model, "int8_sq")["calibration_text"]
    judge = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    cached, rows = [], []
    judge.model.layers[0].self_attn.q_proj.register_forward_pre_hook(lambda _, given: rows.append(given[0]))
    for line in text.read_text().splitlines():
        with torch.no_grad():
            output = judge(torch.tensor([json.loads(line)["token_ids"]]), use_cache=True)
        cached.append([[each.keys.abs().max(), each.values.abs().max()] for each in output.past_key_values.layers])
    inputs = np.concatenate([each.reshape(-1, each.shape[-1]).abs().numpy() for each in rows])
    return Observed(np.array(cached, np.float32).max(axis=0), inputs.max(axis=0))


@pytest.mark.parametrize("scheme", CALIBRATED)
def test_the_same_text_and_seed_give_the_same_bytes_and_leave_no_cache(
    model: Path, scheme: str, own_cache: Path
) -> None:
    first, second = converted(model, "first", scheme), converted(model, "second", scheme)
    assert first.sha256() == second.sha256()
    assert not list(own_cache.iterdir())
    other = converted(model, "other", scheme, calibration_size=1)
    assert first.rank_file().read_bytes() != other.rank_file().read_bytes()


def test_ranks_hold_parts_of_what_one_rank_holds(model: Path) -> None:
    whole, parts = converted(model, "whole", "int4_gptq"), converted(model, "parts", "int4_gptq", tp_size=2)
    both = [parts.matrix(FC, rank) for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate(both), whole.matrix(FC))
    proj = "transformer.layers.1.mlp.proj"
    both = [parts.matrix(proj, rank) for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate(both, axis=1), whole.matrix(proj))


def test_smoothing_factors_are_shared_by_what_reads_the_same_rows(model: Path) -> None:
    checkpoint = converted(model, "smoothed", "int8_sq")
    fc, gate = checkpoint.input_factors(FC), checkpoint.input_factors("transformer.layers.1.mlp.gate")
    assert fc is not None and gate is not None
    np.testing.assert_array_equal(fc, gate)
    assert checkpoint.input_factors("transformer.layers.1.mlp.proj") is None
    plain = ConvertOptions(progress=False)
    convert_model(model, model.parent / "plain", plain)
    weight = Checkpoint.open(model.parent / "plain").matrix(QKV).astype(np.float32)
    factors = checkpoint.input_factors(QKV)
    assert factors is not None
    restored = checkpoint.matrix(QKV) * factors.astype(np.float32)
    steps = checkpoint.array(f"{QKV}.per_channel_scale")[:, None] * np.abs(factors)
    assert (np.abs(restored - weight) <= 0.501 * steps).all()
    first, others = QKV.replace("layers.1", "layers.0"), converted(model, "int4", "w4a8_sq")
    assert others.input_factors("transformer.layers.1.mlp.proj") is None
    by, same = others.input_factors(first), checkpoint.input_factors(first)
    assert by is not None and same is not None
    np.testing.assert_array_equal(by, same)


@pytest.mark.parametrize("scheme", ["fp8_tensorwise", "fp8_rowwise"])
def test_8_bit_floats_have_a_scale_for_a_matrix_or_its_rows(model: Path, scheme: str) -> None:
    checkpoint, shared = converted(model, "fp8", scheme), scheme == "fp8_tensorwise"
    suffix = "weights_scaling_factor" if shared else "per_channel_scale"
    fc, gate = (checkpoint.array(f"{FC.removesuffix('fc')}{name}.{suffix}") for name in ("fc", "gate"))
    assert fc.shape == gate.shape == ((1,) if shared else (128,))
    assert not shared or (fc == gate and checkpoint.array(f"{FC}.activation_scaling_factor") > 0)
    assert checkpoint.tensors[f"{FC}.weight"].dtype == "float8_e4m3fn"
    convert_model(model, model.parent / "plain", ConvertOptions(progress=False))
    plain = Checkpoint.open(model.parent / "plain")
    for module in (QKV, FC, "transformer.layers.0.mlp.proj"):
        weight = plain.matrix(module).astype(np.float32)
        assert np.linalg.norm(checkpoint.matrix(module) - weight) < 0.1 * np.linalg.norm(weight)


def test_int4_awq_has_the_form_that_tensorrt_llm_reads(model: Path) -> None:
    checkpoint = converted(model, "awq", "int4_awq", group_size=64)
    written = json.loads((checkpoint.directory / "config.json").read_text())["quantization"]
    assert (written["quant_algo"], written["group_size"], written["pre_quant_scale"]) == ("W4A16_AWQ", 64, True)
    assert "weight_layout" not in written and not (checkpoint.directory / "quant_cfg.json").exists()
    fc, gate = checkpoint.input_factors(FC), checkpoint.input_factors("transformer.layers.1.mlp.gate")
    assert fc is not None and gate is not None
    np.testing.assert_array_equal(fc, gate)
    assert checkpoint.array(f"{FC}.weight").shape == (64, 64)
    assert checkpoint.array(f"{FC}.weights_scaling_factor").shape == (128, 1)
    convert_model(model, model.parent / "plain", ConvertOptions(progress=False))
    plain = Checkpoint.open(model.parent / "plain")
    for module in (QKV, FC, "transformer.layers.0.attention.dense", "transformer.layers.0.mlp.proj"):
        weight, factors = plain.matrix(module).astype(np.float32), checkpoint.input_factors(module)
        assert factors is not None
        restored = checkpoint.matrix(module) * factors.astype(np.float32)
        # What the outputs lose least with moves weights further than rounding does: extremes are cut off.
        assert np.linalg.norm(restored - weight) < 0.25 * np.linalg.norm(weight)


def test_w4a8_awq_has_the_form_that_tensorrt_llm_reads(model: Path) -> None:
    checkpoint = converted(model, "w4a8", "w4a8_awq")
    written = json.loads((checkpoint.directory / "config.json").read_text())["quantization"]
    assert (written["quant_algo"], written["group_size"], written["pre_quant_scale"]) == ("W4A8_AWQ", 128, True)
    assert "weight_layout" not in written and not (checkpoint.directory / "quant_cfg.json").exists()
    convert_model(model, model.parent / "plain", ConvertOptions(progress=False))
    plain, layer = Checkpoint.open(model.parent / "plain"), FC.removesuffix("mlp.fc")
    for name in ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj"):
        module = f"{layer}{name}"
        weight, factors = plain.matrix(module).astype(np.float32), checkpoint.input_factors(module)
        assert factors is not None
        restored = checkpoint.matrix(module) * factors.astype(np.float32)
        assert np.linalg.norm(restored - weight) < 0.25 * np.linalg.norm(weight)
        bound = checkpoint.array(f"{module}.weights_scaling_factor_2")
        assert bound.shape == (1,) and bound.dtype == np.float32
        over = np.abs(checkpoint.matrix(module)).max() / bound[0]
        assert over <= 448 and (over > 200 or name in ("mlp.fc", "mlp.gate"))
    # One kernel reads both.
    for suffix in ("prequant_scaling_factor", "activation_scaling_factor", "weights_scaling_factor_2"):
        first, second = (checkpoint.array(f"{layer}mlp.{name}.{suffix}") for name in ("fc", "gate"))
        np.testing.assert_array_equal(first, second)
    # The scale is one of rows that were multiplied by their factors.
    first_qkv = QKV.replace("1", "0")
    factors = checkpoint.input_factors(first_qkv)
    assert factors is not None
    greatest = (run_by_transformers(model).rows * np.abs(factors.astype(np.float32))).max()
    scale = float(checkpoint.array(f"{first_qkv}.activation_scaling_factor")[0])
    assert 0.99 * greatest / 448 < scale < 2.01 * greatest / 448


def test_an_fp8_cache_has_the_factors_that_calibration_measured(model: Path) -> None:
    """Where keys and values are beyond what E4M3 holds; as ModelOpt, never below 1."""
    tensors = load_file(model / "model.safetensors")
    for name, by in {"0.self_attn.v_proj": 300.0, "1.self_attn.k_proj": 3000.0}.items():
        tensors[f"model.layers.{name}.weight"] *= np.float32(by)
    save_file(tensors, model / "model.safetensors")
    checkpoint = converted(model, "cache", "int8_sq", kv_cache_dtype="fp8")
    assert checkpoint.config.quantization.kv_cache_quant_algo == "FP8"
    expected = np.maximum(run_by_transformers(model).cached / 448, 1)
    assert (expected > 1).any(axis=0).all() and (expected == 1).any(axis=0).all(), expected
    np.testing.assert_allclose(cache_factors(checkpoint), expected, rtol=1e-3)
    assert cache_factors(converted(model, "none", "int8_sq")) == ()


def test_a_text_with_tokens_beyond_the_vocabulary_is_refused(model: Path) -> None:
    path = model.parent / "tokens.jsonl"
    path.write_text(json.dumps({"token_ids": [1, 10**6]}))
    with pytest.raises(InflightError, match="beyond the model's vocabulary of 37"):
        converted(model, "refused", "int4_gptq", calibration_text=path)
    assert not (model.parent / "refused").exists()


def test_a_calibration_that_was_killed_goes_on_where_it_was(
    tmp_path: Path, rng: np.random.Generator, own_cache: Path
) -> None:
    config = tiny_config(**SIZES, num_hidden_layers=_LAYERS)
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    whole = converted(tmp_path / "model", "whole", "int4_gptq")
    text = calibrated_on(tmp_path / "model", "int4_gptq")["calibration_text"]
    command = [sys.executable, "-c", "from inflight.cli.main import main; main()", "convert", str(tmp_path / "model")]
    command += ["--quantize", "int4_gptq", "--calib-dataset", str(text), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    assert eventually(lambda: any(own_cache.glob("*/streams-0000[2-9].npy")) or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    *_, kept = sorted(own_cache.glob("*/streams-?????.npy"))
    assert 0 < int(kept.stem.removeprefix("streams-")) < _LAYERS
    resumed = converted(tmp_path / "model", "out", "int4_gptq")
    assert resumed.rank_file().read_bytes() == whole.rank_file().read_bytes()
    assert not list(own_cache.iterdir())


def test_a_budget_between_int4_and_int8_is_kept_with_some_matrices_of_each(model: Path) -> None:
    def wide(budget: str) -> tuple[set[str], float]:
        text = calibrated_on(model, "int4_gptq")
        options = {"quantize": "int4_gptq", "progress": False, "budget": budget, "overwrite": True}
        said, *_ = convert_model(model, model.parent / "out", ConvertOptions.model_validate(options | text))
        checkpoint = Checkpoint.open(model.parent / "out")
        matrices = [name for name, entry in checkpoint.tensors.items() if len(entry.shape) == 2]
        modules = [name.removesuffix(".weight") for name in matrices if name.endswith(".weight")]
        found = {name: checkpoint.config.quantization_of(name) for name in modules}
        int8 = {name for name, each in found.items() if each is not None and each.bits == 8}
        assert f"in {len(int8 - {'lm_head'})} matrices" in said
        record = checkpoint.accuracy("float32").record
        assert record is not None
        return int8, record.figures["kl"].value

    with pytest.raises(InflightError) as refused:
        wide("kl<=1e-12")
    narrow, most = wide("kl<=1e9")
    assert narrow == {"lm_head"}
    least = float(refused.value.message.rsplit(" ", 1)[1].rstrip("."))
    between = (least * most) ** 0.5
    mixed, kept = wide(f"kl<={between}")
    assert narrow < mixed and kept <= between
    assert {name.removesuffix("gate") + "fc" for name in mixed if name.endswith("gate")} <= mixed


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("kl<=1e-12", "cannot be kept: with int8 in every matrix, kl is"),
        ("exact_match>=1", "measures"),
        ("kl", "is no"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(model: Path, budget: str, said: str) -> None:
    with pytest.raises(InflightError, match=said):
        converted(model, "refused", "int4_gptq", budget=budget)
    assert not (model.parent / "refused").exists()


@pytest.mark.parametrize("scheme", CALIBRATED)
def test_a_module_outside_of_the_layers_is_not_calibrated(model: Path, scheme: str) -> None:
    with pytest.raises(InflightError, match="lm_head cannot be"):
        converted(model, "refused", scheme, module_schemes=(("lm_head", scheme),))
    assert not (model.parent / "refused").exists()


def test_bytes_are_the_seconds_of_one_user_and_arithmetic_those_of_many(rng: np.random.Generator) -> None:
    elements, bandwidth, operations = int(rng.integers(1, 10**8)), rng.uniform(1e9, 1e11), rng.uniform(1e11, 1e13)
    machine: dict[str, Any] = {"bytes_per_second": bandwidth, "operations_per_second": operations}
    for nbytes in (elements / 2, elements, 2 * elements):
        assert seconds_per_token(nbytes, elements, **machine) == pytest.approx(nbytes / bandwidth)
        many = seconds_per_token(nbytes, elements, users=10**6, **machine)
        assert many == pytest.approx(2 * elements / operations)
        shared = seconds_per_token(nbytes, elements, users=4, **machine)
        assert shared == pytest.approx(max(nbytes / bandwidth / 4, 2 * elements / operations))
    assert seconds_per_token(elements, elements) == pytest.approx(2 * seconds_per_token(elements / 2, elements))
