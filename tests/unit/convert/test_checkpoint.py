"""Opening checkpoints: our own, those that other writers made, and damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.errors import CheckpointError
from tests.models.hf_files import random_tensors, tiny_config, write_model

pytestmark = pytest.mark.unit

INFLIGHT: dict[str, Any] = {"version": 1, "source": {"model": "model", "sha256": "0"}}


@pytest.fixture
def checkpoint(tmp_path: Path, rng: np.random.Generator) -> Path:
    config = tiny_config("qwen2")
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    convert_model(tmp_path / "model", tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def edit_config(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((directory / "config.json").read_text())
    edit(config)
    (directory / "config.json").write_text(json.dumps(config))


def edit_tensors(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    tensors = {name: array.copy() for name, array in load_file(directory / "rank0.safetensors").items()}
    edit(tensors)
    save_file(tensors, directory / "rank0.safetensors")


def test_a_checkpoint_of_another_writer_opens_with_the_formats_defaults(checkpoint: Path) -> None:
    def as_modelopt_writes(config: dict[str, Any]) -> None:
        for key in ("inflight", "attn_bias", "mlp_bias", "qk_layernorm", "rotary_scaling", "tie_word_embeddings"):
            config.pop(key, None)
        config |= {
            "producer": {"name": "modelopt", "version": "0.47.0"},
            "logits_dtype": "float16",
            "share_embedding_table": False,
            "use_parallel_embedding": True,
            "rank": 0,
            "decoder": "llama",
            "rmsnorm": True,
            "lm_head_bias": False,
            "bias": False,
            "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
            "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
        }

    edit_config(checkpoint, as_modelopt_writes)
    opened = Checkpoint.open(checkpoint)
    assert opened.config.inflight is None and opened.config.sliding_window is None
    assert all(layer.attention.qkv_bias and not layer.attention.dense_bias for layer in opened.spec.layers)
    assert opened.config.rotary_scaling is None


@pytest.mark.parametrize(
    ("family", "group", "windows"),
    [
        ("gemma2", {}, (4096, None, 4096)),
        ("gemma3", {"sliding_window": 7, "_sliding_window_pattern": 2, "rope_local_base_freq": 300}, (7, None, 7)),
    ],
)
def test_gemma_of_another_writer_has_its_norms_in_the_models_type_and_its_familys_windows(
    tmp_path: Path, rng: np.random.Generator, family: str, group: dict[str, Any], windows: tuple[int | None, ...]
) -> None:
    config = tiny_config(family, sliding_window=9, torch_dtype="float16")
    write_model(tmp_path / "model", config, random_tensors(config, rng, "float16"))
    convert_model(tmp_path / "model", tmp_path / "checkpoint")

    def as_others_write(values: dict[str, Any]) -> None:
        for key in ("inflight", "sliding_window", "_sliding_window_pattern", "rope_local_base_freq"):
            values.pop(key, None)
        values.update(group)

    edit_config(tmp_path / "checkpoint", as_others_write)
    norms = ("layernorm.weight", "ln_f.weight")
    edit_tensors(
        tmp_path / "checkpoint",
        lambda tensors: tensors.update({n: a.astype(np.float16) for n, a in tensors.items() if n.endswith(norms)}),
    )
    spec = Checkpoint.open(tmp_path / "checkpoint").spec
    assert tuple(layer.attention.window for layer in spec.layers) == windows
    assert spec.embedding_scale == float(np.float16(np.sqrt(np.float32(20))))
    local = {layer.attention.rope.base for layer in spec.layers if layer.attention.rope and layer.attention.window}
    assert local == ({300.0} if family == "gemma3" else {10000.0})


def test_the_formats_scales_partial_rotation_and_long_rope_are_read(checkpoint: Path) -> None:
    keys = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "output_multiplier_scale": 0.25}
    rope = {
        "position_embedding_type": "long_rope",
        "rotary_pct": 0.7,
        "original_max_position_embeddings": 32,
        "longrope_scaling_short_factors": [1.0, 2.0],
        "longrope_scaling_long_factors": [3.0, 4.0],
    }
    edit_config(checkpoint, lambda config: config.update(keys | rope | {"attention_multiplier": 2.0}))
    opened = Checkpoint.open(checkpoint)
    spec, (turned,) = opened.spec, opened.spec.ropes
    assert (spec.embedding_scale, spec.logit_scale) == (3.0, 0.25)
    assert all(layer.residual_scale == 0.5 and layer.attention.scale == 2.0 * 6**-0.5 for layer in spec.layers)
    assert turned.dim == 4 and turned.scaling is not None
    assert (turned.scaling.short_factor, turned.scaling.long_factor) == ((1.0, 2.0), (3.0, 4.0))
    assert opened.config.longest_sequence == 32


def test_a_minimal_config_gets_the_documented_defaults(checkpoint: Path) -> None:
    keep: tuple[str, ...] = (
        "architecture",
        "dtype",
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
    )
    keep = (*keep, "hidden_act", "position_embedding_type", "head_size", "num_key_value_heads", "intermediate_size")
    edit_config(checkpoint, lambda config: [config.pop(key) for key in list(config) if key not in keep])
    config = Checkpoint.open(checkpoint).config
    assert (config.norm_epsilon, config.rotary_base, config.mapping.world_size) == (1e-5, 10000.0, 1)
    assert (config.logits_dtype, config.quantization.group_size) == ("float32", 128)


def test_a_tied_checkpoint_may_still_hold_the_copy_that_other_writers_make(checkpoint: Path) -> None:
    edit_config(checkpoint, lambda config: config.update(tie_word_embeddings=True))
    assert not Checkpoint.open(checkpoint).ties_embeddings
    edit_tensors(checkpoint, lambda tensors: tensors.pop("lm_head.weight"))
    assert Checkpoint.open(checkpoint).ties_embeddings


def test_a_checkpoint_of_another_writer_without_lm_head_ties_its_embeddings(checkpoint: Path) -> None:
    edit_config(checkpoint, lambda config: [config.pop(key) for key in ("inflight", "tie_word_embeddings")])
    edit_tensors(checkpoint, lambda tensors: tensors.pop("lm_head.weight"))
    assert Checkpoint.open(checkpoint).ties_embeddings


def test_extra_tensors_are_tolerated_as_the_formats_loader_does(checkpoint: Path) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors.update(extra=np.ones(2, np.float32)))
    assert "extra" in Checkpoint.open(checkpoint).tensors


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("transformer.layers.1.attention.qkv.bias"), "layers.1.attention.qkv.bias is missing"),
        (lambda t: t.pop("lm_head.weight"), "lm_head.weight is missing"),
        (lambda t: t.update({"transformer.ln_f.weight": np.ones(3, np.float32)}), r"ln_f.weight has shape \(3,\)"),
        (lambda t: t.update({"transformer.ln_f.weight": np.ones(20, np.float16)}), "ln_f.weight is float16"),
        (lambda t: [t.pop(n) for n in list(t) if n.endswith("qkv.bias")], "layers.0.attention.qkv.bias is missing"),
    ],
)
def test_a_tensor_that_is_not_as_the_config_says_is_named(
    checkpoint: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit_tensors(checkpoint, edit)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mapping": {"world_size": 1, "tp": 1}}, r"mapping\.tp: Extra inputs"),
        ({"quantization": {"algo": None}}, r"quantization\.algo: Extra inputs"),
        ({"mapping": {"world_size": 3, "tp_size": 2}}, "world_size 3 is not"),
        ({"mapping": {"world_size": 2, "tp_size": 2}}, r"lacks rank1\.safetensors"),
        ({"quantization": {"quant_algo": "NVFP4"}}, "quant_algo 'NVFP4'"),
        ({"hidden_act": "mish"}, "hidden_act 'mish'"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type 'alibi'"),
        ({"rotary_scaling": {"type": "mrope", "factor": 2}}, "rope type 'mrope'"),
        ({"rotary_pct": 0.5}, r"rotary_embedding_dim 3 \(an even number up to head_size 6\)"),
        ({"rotary_embedding_dim": 8}, r"rotary_embedding_dim 8 \(an even number up to head_size 6\)"),
        ({"rotary_pct": float("inf")}, "rotary_pct must be above 0 and at most 1"),
        ({"rotary_scaling": {"type": "yarn"}, "max_position_embeddings": "x"}, "max_position_embeddings"),
        ({"inter_layernorms": True}, "inter_layernorms True in Qwen2ForCausalLM"),
        ({"rotary_embedding_dim": 0}, "rotary_embedding_dim 0"),
        ({"position_embedding_type": "long_rope"}, "without longrope_scaling_short_factors"),
        ({"position_embedding_type": "yarn"}, "without a rotary_scaling of that type"),
        (
            {"longrope_scaling_short_factors": [1.0, 2.0], "longrope_scaling_long_factors": [1.0, 2.0, 3.0]},
            "2 numbers in short_factor for 3 frequencies",
        ),
        ({"longrope_short_mscale": 1.2}, r"longrope_short_mscale 1\.2"),
        ({"q_scaling": 2.0}, r"q_scaling 2\.0"),
        ({"rotary_scaling": {"type": "dynamic", "factor": 2}, "max_position_embeddings": None}, "'dynamic' without"),
        ({"rotary_scaling": {"type": "yarn", "factor": 2}, "rotary_base": 1.0}, "'yarn' with a rotary base of 1"),
        ({"use_logn_attn": True}, "use_logn_attn True"),
        ({"architecture": "BertLMHeadModel"}, r"architecture 'BertLMHeadModel' \(supported: Llama"),
        ({"moe": {"num_experts": 8, "top_k": 2}}, "mixture of experts"),
        ({"vocab_size": None}, "vocab_size: Field required"),
        ({"num_attention_heads": 6}, "not a multiple"),
        ({"inflight": {"version": 1}}, r"inflight\.source: Field required"),
        ({"dtype": "int8"}, "dtype 'int8'"),
        ({"inflight": INFLIGHT | {"layer_types": ["full_attention"]}}, "1 layer_types for 3 layers"),
        (
            {"inflight": INFLIGHT | {"layer_types": ["sliding_attention"] * 3}},
            "'sliding_attention' without sliding_window",
        ),
        ({"inflight": INFLIGHT | {"layer_types": ["chunked"]}}, r"inflight\.layer_types\.0: Input should be"),
        ({"inflight": INFLIGHT | {"layers_without_rope": [1, 3]}}, r"layers_without_rope \[1, 3\]"),
    ],
)
def test_a_config_that_cannot_be_used_says_which_key(checkpoint: Path, change: dict[str, Any], message: str) -> None:
    edit_config(checkpoint, lambda config: config.update(change))
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(checkpoint)


def test_unknown_keys_at_the_top_are_tolerated(checkpoint: Path) -> None:
    edit_config(checkpoint, lambda config: config.update(disable_weight_only_quant_plugin=False, seq_length=8192))
    Checkpoint.open(checkpoint)


def test_a_truncated_rank_file_is_named(checkpoint: Path) -> None:
    path = checkpoint / "rank0.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"rank0\.safetensors is truncated"):
        Checkpoint.open(checkpoint)


def test_a_directory_that_is_no_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text("{,")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config()))
    with pytest.raises(CheckpointError, match="a Hugging Face model, not a checkpoint") as refused:
        Checkpoint.open(tmp_path)
    assert "inflight convert" in str(refused.value.hint)


def test_asking_for_an_unknown_tensor_names_the_file(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"rank0\.safetensors has no tensor nothing"):
        Checkpoint.open(checkpoint).array("nothing")


def test_the_identity_follows_every_byte(checkpoint: Path) -> None:
    before = Checkpoint.open(checkpoint).sha256()
    edit_tensors(checkpoint, lambda tensors: tensors["transformer.ln_f.weight"].__setitem__(0, 9.0))
    assert Checkpoint.open(checkpoint).sha256() != before


def test_the_written_config_is_the_documented_one(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config("llama", rope_scaling={"type": "linear", "factor": 2.0})
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    convert_model(tmp_path / "model", tmp_path / "out", ConvertOptions(tp_size=2, dtype="float16"))
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["architecture"] == "LlamaForCausalLM"
    assert written["position_embedding_type"] == "rope_gpt_neox"
    assert (written["dtype"], written["logits_dtype"], written["hidden_act"]) == ("float16", "float32", "silu")
    assert written["rotary_scaling"] == {"type": "linear", "rope_type": "linear", "factor": 2.0}
    assert written["mapping"] == {
        "world_size": 2,
        "gpus_per_node": 8,
        "cp_size": 1,
        "tp_size": 2,
        "pp_size": 1,
        "moe_tp_size": 2,
        "moe_ep_size": 1,
    }
    assert written["quantization"]["quant_algo"] is None
