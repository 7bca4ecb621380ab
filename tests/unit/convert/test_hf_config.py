"""config.json of Hugging Face models: every spelling of a value is read, and every unsupported one is reported."""

from __future__ import annotations

import ast
import contextlib
import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.convert.checkpoint.rope import RotaryScaling
from inflight.convert.families import mixtures
from inflight.convert.families import table as families
from inflight.convert.families.table import FAMILIES, find_family
from inflight.convert.options import ConvertOptions
from inflight.convert.plan import make_plan
from inflight.convert.source.hf_config import ConfigReading, read_model_config
from inflight.convert.source.tensor import PlainTensor
from inflight.errors import ModelError
from inflight.files.tensor_file import TensorEntry
from tests.models.hf_files import ARCHITECTURES, tensor_shapes, tiny_config
from tests.models.ropes import ROPE_KINDS, random_rope

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
    return read_model_config(config, found)


def test_a_row_of_the_family_table_takes_at_most_twenty_lines() -> None:
    assert len({family.architecture for family in FAMILIES}) == len(FAMILIES) >= 4
    sources = [path.read_text() for path in Path(str(families.__file__)).with_name("rows").glob("*.py")]
    sources.append(inspect.getsource(mixtures))
    calls = [node for text in sources for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    rows = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("Family", "family")]
    rows = [call for call in rows if all(given.arg != "encoder" for given in call.keywords)]
    assert len(rows) == len(FAMILIES)
    assert all((row.end_lineno or 0) - row.lineno < 20 for row in rows)


def test_a_config_without_architectures_is_found_by_its_model_type() -> None:
    family = find_family(tiny_config("qwen3", architectures=None))
    assert family is not None and family.architecture == "Qwen3ForCausalLM"
    assert find_family({"architectures": ["LlamaForQuestionAnswering"], "model_type": "llama"}) is None
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
    assert reading.config.rotary_base == 5e5
    assert reading.config.rotary_scaling == RotaryScaling(rope_type="llama3", **LLAMA3)


def test_rope_defaults_are_those_of_transformers() -> None:
    config = read(rope_theta=None).config
    assert (config.rotary_base, config.rotary_scaling) == (10000.0, None)
    without = {key: value for key, value in LLAMA3.items() if key != "original_max_position_embeddings"}
    scaling = read(rope_scaling={"rope_type": "llama3", **without}).config.rotary_scaling
    assert scaling is not None and scaling.original_max_position_embeddings == 64
    scaling = read(
        rope_scaling={"rope_type": "llama3", **LLAMA3}, original_max_position_embeddings=32
    ).config.rotary_scaling
    assert scaling is not None and scaling.original_max_position_embeddings == 32
    assert read(rope_scaling={"type": "linear", "factor": 2}).config.rotary_scaling == RotaryScaling(
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
    block = reading.config.inflight
    assert block is not None and (block.sliding_window, block.layer_types) == (window, None)


def test_a_missing_sliding_window_is_mistrals_default() -> None:
    config = tiny_config("mistral")
    del config["sliding_window"]
    family = find_family(config)
    assert family is not None
    block = read_model_config(config, family).config.inflight
    assert block is not None and block.sliding_window == 4096


def test_biases_follow_the_config_of_each_family() -> None:
    assert read("llama").optional.qkv_bias is False
    optional = read("llama", attention_bias=True, mlp_bias=True).optional
    assert (optional.qkv_bias, optional.dense_bias, optional.mlp_bias) == (True, True, True)
    optional = read("qwen2").optional
    assert (optional.qkv_bias, optional.dense_bias, optional.mlp_bias) == (True, False, False)
    assert read("mistral", attention_bias=True).optional.qkv_bias is False
    assert read("qwen3").optional.qk_norm is True


def test_absent_sizes_fall_back_as_in_transformers() -> None:
    config = read("llama", num_key_value_heads=None, head_dim=None, hidden_size=40).config
    assert (config.num_key_value_heads, config.head_size) == (8, 5)
    assert read("qwen3", head_dim=None).config.head_size == 128
    assert read("mistral", num_key_value_heads=None).config.num_key_value_heads == 8


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
@pytest.mark.parametrize("value", ["bfloat16", "torch.bfloat16"])
def test_both_keys_of_the_dtype_are_read(key: str, value: str) -> None:
    changes: dict[str, Any] = {"torch_dtype": None} | {key: value}
    assert read(**changes).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rope_scaling": {"rope_type": "proportional", "factor": 4.0}}, "rope type 'proportional' is not supported"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 2]}}, "rope type 'mrope' is not supported"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": math.nan}}, "beta_fast must be positive"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 4.0, "beta_fast": 2}},
            "dynamic takes no other key than factor",
        ),
        ({"rope_scaling": {"type": "longrope", "long_factor": [1.0]}}, "longrope needs original_max_position_embedd"),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1, -1], "long_factor": [1.0]}},
            "short_factor must be positive, not -1",
        ),
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
        ({"hidden_act": "mish"}, "hidden_act 'mish' is not supported (supported: silu, "),
        ({"quantization_config": {"quant_method": "hqq"}}, "quantized by the method 'hqq' (supported: gptq, awq"),
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


@pytest.mark.parametrize(
    ("family", "changes", "window", "types"),
    [
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}, 9, "FSS"),
        ("qwen3", {"use_sliding_window": True, "layer_types": "SFS"}, 9, "SFS"),
        ("ministral", {"layer_types": "FSF"}, 9, "FSF"),
        ("gemma2", {}, 9, "SFS"),
        ("gemma2", {"sliding_window_pattern": 3}, 9, "SFS"),
        ("gemma2", {"layer_types": "FFS"}, 9, "FFS"),
        ("gemma3", {}, 9, None),
        ("gemma3", {"sliding_window_pattern": 3}, 9, "SSF"),
        ("gemma3", {"sliding_window_pattern": 1}, None, None),
    ],
)
def test_layers_of_two_kinds_are_those_of_transformers(
    family: str, changes: dict[str, Any], window: int | None, types: str | None
) -> None:
    names = {"S": "sliding_attention", "F": "full_attention"}
    given = {key: [names[kind] for kind in value] if key == "layer_types" else value for key, value in changes.items()}
    reading = read(family, **{"sliding_window": 9} | given)
    block = reading.config.inflight
    assert not reading.problems and block is not None
    expected = None if types is None else tuple(names[kind] for kind in types)
    assert (block.sliding_window, block.layer_types) == (window, expected)
    if family == "gemma3":
        pattern = 3 if types else None
        assert (reading.config.sliding_window, reading.config.sliding_window_pattern) == (window, pattern)


@pytest.mark.parametrize(
    ("family", "changes", "problem"),
    [
        ("mistral", {"layer_types": ["sliding_attention", "full_attention"] * 2}, "has 4 entries for 3 layers"),
        ("mistral", {"layer_types": ["full_attention"] * 3}, "MistralForCausalLM of transformers ignores it"),
        ("ministral", {"layer_types": ["chunked_attention"] * 3}, "not chunked_attention"),
        ("ministral", {"sliding_window": None, "layer_types": ["sliding_attention"] * 3}, "sliding_window is null"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "use_sliding_window is false"),
        ("gemma2", {"layer_types": 7}, "not 7"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention True"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar must be a positive number"),
        ("gemma2", {"final_logit_softcapping": -1.0}, "final_logit_softcapping must be a positive number"),
        ("gemma2", {"hidden_activation": "mish"}, "hidden_activation 'mish' is not supported"),
        ("stablelm", {"qk_layernorm": True}, "qk_layernorm True is not supported"),
        ("stablelm", {"head_dim": 8}, "head_dim 8 is not supported"),
        ("stablelm", {"partial_rotary_factor": 1.5}, "partial_rotary_factor must be within 0 and 1, not 1.5"),
        ("smollm3", {"use_sliding_window": True}, "use_sliding_window True is not supported"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers must have a 0 or a 1 for each of 3 layers"),
        ("granite", {"logits_scaling": 1e-320}, "logits_scaling 1e-320 is out of range"),
        ("granite", {"logits_scaling": 0}, "logits_scaling must be a positive number"),
        ("gemma3", {"attn_logit_softcapping": 5.0}, "does not apply it in Gemma3ForCausalLM"),
        ("gemma3", {"rope_parameters": {"rope_theta": 1e4}}, "rope_parameters has rope_theta beside full_attention"),
        ("gemma3", {"rope_parameters": {"full_attention": 3}}, "rope_parameters of full_attention must be an object"),
        ("gemma3", {"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}}, "truncate in the rope"),
    ],
)
def test_what_layers_cannot_have_is_named(family: str, changes: dict[str, Any], problem: str) -> None:
    assert problem in "\n".join(read(family, **{"sliding_window": 9} | changes).problems)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 5e5, "rope_local_base_freq": 300.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {
            "rope_theta": None,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
        },
    ],
    ids=["transformers 4", "transformers 5"],
)
def test_both_spellings_of_rope_by_layer_type_mean_the_same(changes: dict[str, Any]) -> None:
    reading = read("gemma3", sliding_window=8, **changes)
    assert not reading.problems
    assert (reading.config.rotary_base, reading.config.rope_local_base_freq) == (5e5, 300.0)
    assert reading.config.rotary_scaling == RotaryScaling(rope_type="linear", factor=8.0)


def test_what_gemmas_configs_pass_over_is_what_transformers_assumes() -> None:
    silent = dict.fromkeys(("head_dim", "num_key_value_heads", "rope_theta", "tie_word_embeddings"))
    second = read("gemma2", sliding_window=8, **silent)
    config = second.config
    assert (config.head_size, config.num_key_value_heads, config.hidden_act) == (256, 4, "gelu_pytorch_tanh")
    assert (config.query_pre_attn_scalar, config.attn_logit_softcapping, config.final_logit_softcapping) == (
        256,
        50,
        30,
    )
    assert (config.rotary_base, second.optional.lm_head, config.inter_layernorms) == (1e4, False, True)
    third = read("gemma3", sliding_window=8, **silent).config
    assert (third.rotary_base, third.rope_local_base_freq, third.final_logit_softcapping) == (1e6, 1e4, None)


ODD_VALUES: list[Any] = [
    None,
    "x",
    "1",
    -1,
    0,
    1.5,
    True,
    [],
    [1],
    [None],
    [[]],
    {},
    {"a": 1},
    {"rope_type": 3},
    2**31,
    10**30,
    1e-320,
    1e308,
]


@pytest.mark.parametrize("family", list(ARCHITECTURES))
def test_no_value_of_any_key_ends_in_a_traceback(family: str) -> None:
    config = tiny_config(family)
    tensors = {
        name: PlainTensor(TensorEntry(name, Path("x"), "float32", shape, 0, 4 * math.prod(shape)))
        for name, shape in tensor_shapes(config).items()
    }
    config |= {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0}
    extra: tuple[str, ...] = (
        "rope_scaling",
        "rope_parameters",
        "quantization_config",
        "layer_types",
        "partial_rotary_factor",
        "dtype",
    )
    extra = (*extra, "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "hidden_activation")
    extra = (*extra, "rope_local_base_freq", "sliding_window_pattern", "use_bidirectional_attention")
    extra = (*extra, "embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
    extra = (*extra, "no_rope_layers", "no_rope_layer_interval", "use_qkv_bias", "use_bias", "layer_norm_eps")
    for key in (*config, *extra, "original_max_position_embeddings", "attention_bias"):
        for value in ODD_VALUES:
            with contextlib.suppress(ModelError):
                make_plan("model", config | {key: value}, tensors, ConvertOptions())


@pytest.mark.parametrize("family", ["llama", "stablelm", "gemma3"])
@pytest.mark.parametrize("kind", ROPE_KINDS)
def test_no_value_of_any_rope_key_ends_in_a_traceback(family: str, kind: str, rng: np.random.Generator) -> None:
    rope, config = random_rope(rng, kind, 6), tiny_config(family, sliding_window=9)
    for key in (*rope, "partial_rotary_factor", "type", "mscale", "truncate"):
        for value in ODD_VALUES:
            changed = rope | {key: value}
            for given in (
                {"rope_parameters": {"full_attention": changed, "sliding_attention": changed}},
                {"rope_parameters": changed},
                {"rope_scaling": changed},
            ):
                with contextlib.suppress(ModelError):
                    make_plan("model", config | given, {}, ConvertOptions())
