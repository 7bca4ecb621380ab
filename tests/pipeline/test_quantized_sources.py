"""Quantized models and GGUF files on the whole way: converted, built, and held to transformers by `inflight verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.cli.engines.resolve import resolve_engine
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.runtime import LLM, SamplingParams
from tests.models.gguf_files import as_llama_cpp_has_it, gguf_names, write_gguf, write_random_blocks
from tests.models.hf_files import random_tensors, tiny_config
from tests.models.nvfp4 import write_nvfp4_model
from tests.models.published import smollm2_gguf
from tests.models.quantized_files import FIXTURES, IDS
from tests.models.random_models import Shape, save_random_model
from tests.network.support import chosen, some_of

pytestmark = pytest.mark.pipeline

SLIDING = ["sliding_attention"]
SHAPES = {
    "llama": Shape("llama"),
    "qwen2": Shape("qwen2"),
    "qwen3": Shape("qwen3", tied=True),
    "gemma2": Shape(
        "gemma2",
        sliding_window=7,
        num_layers=3,
        tied=True,
        extra={"query_pre_attn_scalar": 24, "attn_logit_softcapping": 5.0},
    ),
    "gemma3": Shape(
        "gemma3",
        sliding_window=7,
        num_layers=7,
        tied=True,
        extra={
            "query_pre_attn_scalar": 24,
            "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
        },
    ),
    "granite": Shape(
        "granite",
        extra={
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.25,
            "residual_multiplier": 0.5,
            "logits_scaling": 4.0,
        },
    ),
    "smollm3": Shape("smollm3", num_layers=5),
    "stablelm": Shape(
        "stablelm", head_size=16, hidden_size=96, extra={"rope_parameters": {"partial_rotary_factor": 0.5}}
    ),
    "starcoder2": Shape("starcoder2", extra={"use_bias": True}),
}


def run(*arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(build_app(words[:1]), words, catch_exceptions=False)


def built(directory: Path, model: Path, target: str, **options: Any) -> Path:
    convert_model(model, directory / "checkpoint", ConvertOptions(**options))
    recipe = make_recipe(target=target, max_batch_size=2, max_seq_len=64, max_num_tokens=8)
    build_engine(directory / "checkpoint", directory / "engine", recipe)
    return directory / "engine"


def passes(model: Path, engine: Path) -> None:
    result = run("verify", model, engine, "--max-tokens", 4, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0, report
    assert all(prompt["passed"] for prompt in report["prompts"])


# One in three of every tool's; the others compute with the same code.
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(path, id=name, marks=() if number % 3 == 0 else pytest.mark.slow)
        for number, (path, name) in enumerate(zip(FIXTURES, IDS, strict=True))
    ],
)
def test_what_other_tools_quantized_builds_and_verifies(tmp_path: Path, model: Path) -> None:
    passes(model, built(tmp_path, model, "reference"))


KEPT = ["int4_groups", "int4_zero_points", "int8_w8a8", "int8_zero_points", "mxfp4", "bitsandbytes_nf4"]
KEPT += ["fp8_blocks", "gptq_desc_act", "int8_sq", "gptq_int8", "bitsandbytes_int8", "int4_awq", "w4a8_awq"]
KEPT += ["fp8_static", "fp8_dynamic", "fp8", "fp8_rows"]


@pytest.mark.parametrize("case", some_of(2, KEPT))
def test_kept_numbers_verify_on_the_cpu_target(tmp_path: Path, case: Any, rng: np.random.Generator) -> None:
    name = chosen(case, rng)
    print(name)
    model = next(path for path in FIXTURES if path.name == name)
    engine = built(tmp_path, model, "cpu")
    source = json.loads((engine / "manifest.json").read_text())["source"]
    assert source["kept_from_source"] and not source["rounded_by_convert"]
    passes(model, engine)


@pytest.mark.parametrize(("method", "target"), [("modelopt", "cpu"), ("compressed-tensors", "reference")])
def test_nvfp4_keeps_its_numbers_and_verifies(
    tmp_path: Path, rng: np.random.Generator, method: str, target: str
) -> None:
    write_nvfp4_model(tmp_path / "model", rng, method)
    engine = built(tmp_path, tmp_path / "model", target)
    assert json.loads((engine / "manifest.json").read_text())["source"]["kept_from_source"]
    passes(tmp_path / "model", engine)


@pytest.mark.parametrize(("name", "target"), [("int4_zero_points", "reference"), ("gptq_int4", "cpu")])
def test_dequantized_numbers_verify(tmp_path: Path, name: str, target: str) -> None:
    model = next(path for path in FIXTURES if path.name == name)
    engine = built(tmp_path, model, target, dequantize=True)
    assert not json.loads((engine / "manifest.json").read_text())["source"]["kept_from_source"]
    passes(model, engine)


def test_commands_that_build_a_quantized_model_dequantize_it_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(next(path for path in FIXTURES if path.name == "gptq_int4"))
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path))
    recipe = make_recipe("reference", max_batch_size=2, max_seq_len=64)
    kept, plain = (resolve_engine(model, recipe=recipe, dequantize=asked) for asked in (False, True))
    assert kept != plain
    facts = [json.loads((engine / "manifest.json").read_text())["precision"] for engine in (kept, plain)]
    quantized = [{module for module, each in found.items() if each["scales"] is not None} for found in facts]
    assert quantized[0] and not quantized[1]


def test_a_gguf_file_of_several_types_keeps_its_numbers_and_verifies(tmp_path: Path, rng: np.random.Generator) -> None:
    """As Q4_K_M and Q4_1 have them: 4, 5, 6 and 8 bits, with offsets and without, codes, and a tied projection."""
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    config = tiny_config(
        hidden_size=256, intermediate_size=512, head_dim=32, num_hidden_layers=2, tie_word_embeddings=True
    )
    kinds = {
        "1.self_attn.o": str(rng.choice(["IQ4_XS", "IQ4_NL", "MXFP4"])),
        "0.self_attn.v": "Q6_K",
        "down": "Q6_K",
        "1.self_attn": "Q4_1",
        "1.mlp": "Q5_K",
        "embed": "Q8_0",
        "": "Q4_K",
    }
    tensors = random_tensors(config, rng)
    file = write_random_blocks(tmp_path / "model.gguf", config, tensors, kinds, rng)
    passes(file, built(tmp_path, file, "cpu"))


def test_a_quantized_source_is_quantized_again_and_verifies_on_the_cpu_target(tmp_path: Path) -> None:
    model = next(path for path in FIXTURES if path.name == "gptq_desc_act")
    passes(model, built(tmp_path, model, "cpu", quantize="int8_w8a8"))


def flattened(config: dict[str, Any]) -> dict[str, Any]:
    """config.json of transformers 5 with the rotary parameters as keys of their own."""
    rope = config["rope_parameters"]
    return {**config, **(rope.get("full_attention") or rope)}


@pytest.mark.parametrize("family", list(SHAPES))
def test_a_gguf_file_computes_what_its_model_does(
    tmp_path: Path, seed: int, rng: np.random.Generator, family: str
) -> None:
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    save_random_model(tmp_path / "model", SHAPES[family], seed, torch.float32)
    config = flattened(json.loads((tmp_path / "model" / "config.json").read_text()))
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    names = gguf_names(config, list(tensors))
    stored = {names[name]: (as_llama_cpp_has_it(config, name, tensor), None) for name, tensor in tensors.items()}
    file = write_gguf(tmp_path / "model.gguf", config, stored)
    engine = built(tmp_path, file, "reference")
    # By the model that the file was made of, so that a wrong config shows; then by the file alone.
    passes(tmp_path / "model", engine)
    passes(file, engine)


def test_a_gguf_file_is_built_once_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = smollm2_gguf()
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path))
    recipe = make_recipe(max_batch_size=2, max_seq_len=256)
    engine = resolve_engine(str(file), recipe=recipe)
    assert "keep their numbers: 210 of int4" in " ".join(capsys.readouterr().err.split())
    assert engine.name.startswith(file.stem)
    # Scales and zero points in 16 bits: 5 bits a weight in the layers, beside a plain table and an int8 projection.
    assert (engine / "rank0.weights").stat().st_size < 158e6
    assert resolve_engine(str(file), recipe=recipe) == engine
    with LLM(engine) as llm:
        question = [{"role": "user", "content": "What is the capital of France?"}]
        answer = llm.chat([question], SamplingParams(temperature=0, max_tokens=16))[0].outputs[0]
    assert "Paris" in answer.text
    assert answer.finish_reason in ("stop", "length")
