"""config.json of Hugging Face models: every spelling of a value is read, and every unsupported one is reported."""

from __future__ import annotations

import ast
import contextlib
import inspect
import math
from pathlib import Path
from typing import Any

import pytest

from inflight.convert.checkpoint.rope import RotaryScaling
from inflight.convert.families import table as families
from inflight.convert.families.table import FAMILIES, find_family
from inflight.convert.options import ConvertOptions
from inflight.convert.plan import make_plan
from inflight.convert.source.hf_config import ConfigReading, read_model_facts
from inflight.errors import ModelError
from inflight.tensor_file import TensorEntry
from tests.models.hf_files import tensor_shapes, tiny_config

pytestmark = pytest.mark.unit

LLAMA3: dict[str, Any] = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def read(family: str = "llama", **changes: Any) -> ConfigReading:
    config = tiny_config(family, **changes)
    found = find_family(config)
    assert found is not None
    return read_model_facts(config, found)


def test_a_row_of_the_family_table_takes_at_most_twenty_lines() -> None:
    assert len({family.architecture for family in FAMILIES}) == len(FAMILIES) >= 4
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(families))) if isinstance(node, ast.Call)]
    rows = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Family"]
    assert len(rows) == len(FAMILIES)
    assert all((row.end_lineno or 0) - row.lineno < 20 for row in rows)


def test_a_config_without_architectures_is_found_by_its_model_type() -> None:
    family = find_family(tiny_config("qwen3", architectures=None))
    assert family is not None and family.architecture == "Qwen3ForCausalLM"
    assert find_family({"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}) is None
    assert find_family({}) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **LLAMA3}},
        {"rope_theta": None, "rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "llama3", **LLAMA3}},
    ],
    ids=["rope_scaling", "type", "rope_parameters", "mixed"],
)
def test_old_and_new_spellings_of_rope_mean_the_same(changes: dict[str, Any]) -> None:
    reading = read(**changes)
    assert not reading.problems
    assert reading.facts.rotary_base == 5e5
    assert reading.facts.rotary_scaling == RotaryScaling(rope_type="llama3", **LLAMA3)


def test_rope_defaults_are_those_of_transformers() -> None:
    facts = read(rope_theta=None).facts
    assert (facts.rotary_base, facts.rotary_scaling) == (10000.0, None)
    without = {key: value for key, value in LLAMA3.items() if key != "original_max_position_embeddings"}
    scaling = read(rope_scaling={"rope_type": "llama3", **without}).facts.rotary_scaling
    assert scaling is not None and scaling.original_max_position_embeddings == 64
    scaling = read(
        rope_scaling={"rope_type": "llama3", **LLAMA3}, original_max_position_embeddings=32
    ).facts.rotary_scaling
    assert scaling is not None and scaling.original_max_position_embeddings == 32
    assert read(rope_scaling={"type": "linear", "factor": 2}).facts.rotary_scaling == RotaryScaling(
        rope_type="linear", factor=2.0
    )


@pytest.mark.parametrize(
    ("family", "changes", "window"),
    [
        ("llama", {"sliding_window": 9}, None),
        ("mistral", {"sliding_window": 9}, 9),
        ("mistral", {"sliding_window": None}, None),
        ("qwen2", {"sliding_window": 9}, None),
        ("qwen2", {"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 0}, 9),
        ("qwen2", {"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 3}, None),
        ("qwen2", {"sliding_window": 9, "use_sliding_window": True}, None),
        ("qwen3", {"sliding_window": 9, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 3}, 9),
        ("qwen3", {"sliding_window": 9, "use_sliding_window": True, "layer_types": ["full_attention"] * 3}, None),
    ],
)
def test_the_sliding_window_applies_where_transformers_applies_it(
    family: str, changes: dict[str, Any], window: int | None
) -> None:
    reading = read(family, **changes)
    assert not reading.problems
    assert reading.facts.sliding_window == window


def test_a_missing_sliding_window_is_mistrals_default() -> None:
    config = tiny_config("mistral")
    del config["sliding_window"]
    family = find_family(config)
    assert family is not None and read_model_facts(config, family).facts.sliding_window == 4096


def test_biases_follow_the_config_of_each_family() -> None:
    assert read("llama").facts.traits.qkv_bias is False
    traits = read("llama", attention_bias=True, mlp_bias=True).facts.traits
    assert (traits.qkv_bias, traits.dense_bias, traits.mlp_bias) == (True, True, True)
    traits = read("qwen2").facts.traits
    assert (traits.qkv_bias, traits.dense_bias, traits.mlp_bias) == (True, False, False)
    assert read("mistral", attention_bias=True).facts.traits.qkv_bias is False
    assert read("qwen3").facts.traits.qk_norm is True


def test_absent_sizes_fall_back_as_in_transformers() -> None:
    facts = read("llama", num_key_value_heads=None, head_dim=None, hidden_size=40).facts
    assert (facts.num_key_value_heads, facts.head_size) == (8, 5)
    assert read("qwen3", head_dim=None).facts.head_size == 128
    assert read("mistral", num_key_value_heads=None).facts.num_key_value_heads == 8


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
@pytest.mark.parametrize("value", ["bfloat16", "torch.bfloat16"])
def test_both_keys_of_the_dtype_are_read(key: str, value: str) -> None:
    changes: dict[str, Any] = {"torch_dtype": None} | {key: value}
    assert read(**changes).facts.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope type 'yarn' is not supported"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope type 'dynamic' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "factor: Field required"),
        ({"rope_scaling": {"type": "linear", "factor": -1.0}}, "factor must be positive"),
        ({"rope_scaling": {"type": "linear", "factor": math.inf}}, "factor must be positive"),
        (
            {"rope_scaling": {"type": "llama3", **LLAMA3, "low_freq_factor": math.nan}},
            "low_freq_factor must be positive",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "beta": 1}}, "beta: Extra inputs"),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0}}, "llama3 needs low_freq_factor"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differ from layer to layer"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"rope_theta": -1}, "rope_theta must be a positive number"),
        ({"rope_theta": math.inf}, "rope_theta must be a positive number"),
        ({"rms_norm_eps": math.inf}, "rms_norm_eps must be a positive number"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps must be a positive number"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantized (gptq)"),
        ({"vocab_size": None}, "config.json has no vocab_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer"),
        ({"num_hidden_layers": 10**30}, "num_hidden_layers must be a positive integer up to 65536"),
        ({"hidden_size": "20"}, "hidden_size must be a positive integer, not '20'"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
        ({"torch_dtype": "float64"}, "dtype 'float64'"),
    ],
)
def test_an_unsupported_value_is_named(changes: dict[str, Any], problem: str) -> None:
    assert problem in "\n".join(read(**changes).problems)


def test_layers_of_different_kinds_are_refused() -> None:
    reading = read("qwen2", sliding_window=9, use_sliding_window=True, max_window_layers=1)
    assert "different kinds" in reading.problems[0]


ODD_VALUES = [None, "x", "1", -1, 0, 1.5, True, [], [1], [None], {}, {"a": 1}, {"rope_type": 3}, 2**31, 10**30]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_no_value_of_any_key_ends_in_a_traceback(family: str) -> None:
    config = tiny_config(family)
    tensors = {
        name: TensorEntry(name, Path("x"), "float32", shape, 0, 4 * math.prod(shape))
        for name, shape in tensor_shapes(config).items()
    }
    config |= {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0}
    extra = ("rope_scaling", "rope_parameters", "quantization_config", "layer_types", "partial_rotary_factor", "dtype")
    for key in (*config, *extra, "original_max_position_embeddings", "attention_bias"):
        for value in ODD_VALUES:
            with contextlib.suppress(ModelError):
                make_plan("model", config | {key: value}, tensors, ConvertOptions())
