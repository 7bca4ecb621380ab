"""Families that transformers has no class for: their checkpoints are those of the model that computes the same."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.families.table import EVERY_FAMILY
from inflight.convert.options import ConvertOptions
from inflight.errors import ModelError
from tests.models.families.pooled import save_embedding_model
from tests.models.random_models import Shape, random_shape, save_random_model

pytestmark = pytest.mark.pipeline

_INTERNLM2 = {
    "model.embed_tokens.": "model.tok_embeddings.",
    ".self_attn.o_proj.": ".attention.wo.",
    ".input_layernorm.": ".attention_norm.",
    ".post_attention_layernorm.": ".ffn_norm.",
    ".mlp.gate_proj.": ".feed_forward.w1.",
    ".mlp.up_proj.": ".feed_forward.w3.",
    ".mlp.down_proj.": ".feed_forward.w2.",
    "lm_head.": "output.",
}


def _internlm2(tensors: dict[str, torch.Tensor], shape: Shape) -> dict[str, torch.Tensor]:
    """Llama's tensors as InternLM2's own code stores them: q, k and v of each key-value head beside each other."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if ".self_attn.q_proj." in name:
            parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            heads = [part.reshape(shape.num_kv_heads, -1, shape.head_size, *part.shape[1:]) for part in parts]
            fused = torch.cat(heads, dim=1).reshape(-1, *tensor.shape[1:])
            found[name.replace(".self_attn.q_proj.", ".attention.wqkv.")] = fused.contiguous()
        elif ".self_attn.k_proj." not in name and ".self_attn.v_proj." not in name:
            for old, new in _INTERNLM2.items():
                name = name.replace(old, new)
            found[name] = tensor
    return found


def test_internlm2_is_llama_under_other_names(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    bias, heads = bool(rng.random() < 0.5), int(rng.integers(1, 4))
    queries, size = int(rng.integers(1, 4)), 8 * int(rng.integers(1, 4))
    extra = {"attention_bias": bias, "rms_norm_eps": 1e-5}
    hidden = heads * queries * size
    shape = Shape("llama", head_size=size, num_kv_heads=heads, queries_per_kv=queries, hidden_size=hidden, extra=extra)
    save_random_model(tmp_path / "llama", shape, seed)
    (tmp_path / "internlm2").mkdir()
    tensors = _internlm2(load_file(tmp_path / "llama" / "model.safetensors"), shape)
    save_file(tensors, tmp_path / "internlm2" / "model.safetensors", {"format": "pt"})
    theirs: dict[str, Any] = json.loads((tmp_path / "llama" / "config.json").read_text())
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = {
        **{name: theirs[name] for name in (*sizes, "num_key_value_heads", "max_position_embeddings", "rms_norm_eps")},
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"},
        "model_type": "internlm2",
        "bias": bias,
        "hidden_act": "silu",
        "pretraining_tp": 1,
        "rope_theta": 10000,
        "rope_scaling": {"type": "dynamic", "factor": 2.0} if rng.random() < 0.5 else None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    (tmp_path / "internlm2" / "config.json").write_text(json.dumps(config))
    ours, internlm2 = _checkpoints(tmp_path, "llama", "internlm2")
    assert ours.tensors.keys() == internlm2.tensors.keys()
    for name in ours.tensors:
        np.testing.assert_array_equal(ours.array(name), internlm2.array(name), err_msg=name)
    if config["rope_scaling"] is None:
        assert ours.spec == internlm2.spec


def test_new_is_gte_whose_frequencies_have_another_name(tmp_path: Path, rng: np.random.Generator) -> None:
    """What its own code calls ntk, by a factor of s: base * s, and all frequencies divided by s^(2 / head size)."""
    size, factor = 8 * int(rng.integers(1, 4)), float(rng.uniform(2, 9))
    scaled = {"rope_type": "linear", "rope_theta": 20000.0 * factor, "factor": factor ** (2 / size)}
    changes: dict[str, Any] = {"hidden_size": 2 * size, "num_attention_heads": 2, "rope_parameters": scaled}
    save_embedding_model(tmp_path / "gte", "gte", rng, **changes)
    shutil.copytree(tmp_path / "gte", tmp_path / "new")
    theirs = json.loads((tmp_path / "gte" / "config.json").read_text())
    del theirs["rope_parameters"]
    own: dict[str, Any] = {
        "architectures": ["NewModel"],
        "model_type": "new",
        "auto_map": {"AutoModel": "modeling.NewModel"},
    }
    own |= {"position_embedding_type": "rope", "layer_norm_type": "layer_norm", "pack_qkv": True}
    own |= {"rope_theta": 20000, "rope_scaling": {"type": "ntk", "factor": factor}}
    (tmp_path / "new" / "config.json").write_text(json.dumps({**theirs, **own}))
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    whole = {f"new.{name.removeprefix('new.')}": tensor for name, tensor in tensors.items()}
    save_file(whole, tmp_path / "new" / "model.safetensors", {"format": "pt"})
    gte, new = _checkpoints(tmp_path, "gte", "new")
    assert gte.spec == new.spec
    for name in gte.tensors:
        np.testing.assert_array_equal(gte.array(name), new.array(name), err_msg=name)


def test_minicpm_is_granite_whose_scales_have_other_names(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    """scale_emb, scale_depth / sqrt(layers) and hidden_size / dim_model_base."""
    depth, base, embedding = (float(scale) for scale in rng.uniform([0.5, 9, 1], [2, 90, 13]))
    shape = random_shape(rng, "granite")
    scales = {"embedding_multiplier": embedding, "residual_multiplier": depth / math.sqrt(shape.num_layers)}
    scales |= {"logits_scaling": shape.hidden_size / base, "attention_multiplier": shape.head_size**-0.5}
    extra = {"attention_bias": False, "mlp_bias": False, "rms_norm_eps": 1e-6, **scales}
    save_random_model(tmp_path / "granite", replace(shape, extra=extra), seed)
    shutil.copytree(tmp_path / "granite", tmp_path / "minicpm")
    theirs = json.loads((tmp_path / "granite" / "config.json").read_text())
    own = {"architectures": ["MiniCPMForCausalLM"], "model_type": "minicpm", "auto_map": {"AutoModel": "modeling.M"}}
    own = {**{key: value for key, value in theirs.items() if key not in scales}, **own}
    own |= {"scale_emb": embedding, "scale_depth": depth, "dim_model_base": base}
    (tmp_path / "minicpm" / "config.json").write_text(json.dumps(own))
    granite, minicpm = _checkpoints(tmp_path, "granite", "minicpm")
    assert granite.spec.embedding_scale == minicpm.spec.embedding_scale
    assert np.isclose(granite.spec.logit_scale, minicpm.spec.logit_scale, rtol=1e-12)
    for one, other in zip(granite.spec.layers, minicpm.spec.layers, strict=True):
        assert np.isclose(one.residual_scale, other.residual_scale, rtol=1e-12)
        assert np.isclose(one.attention.scale, other.attention.scale, rtol=1e-12)
        assert replace(one.attention, scale=1.0) == replace(other.attention, scale=1.0) and one.mlp == other.mlp
    for name in granite.tensors:
        np.testing.assert_array_equal(granite.array(name), minicpm.array(name), err_msg=name)


def _checkpoints(root: Path, *names: str) -> list[Checkpoint]:
    for name in names:
        convert_model(root / name, root / f"{name}-checkpoint", ConvertOptions(progress=False))
    return [Checkpoint.open(root / f"{name}-checkpoint") for name in names]


def test_code_of_its_own_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """Where there is no row, whatever the code would compute."""
    config = {"architectures": ["BaichuanForCausalLM"], "model_type": "baichuan", "auto_map": {"AutoConfig": "x.Y"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"model.norm.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"BaichuanForCausalLM is not supported.*(\n.*)*--target transformers"):
        convert_model(tmp_path, tmp_path / "checkpoint")


def test_every_family_with_code_of_its_own_is_here() -> None:
    assert {family.model_type for family in EVERY_FAMILY if family.own_code} == {"internlm2", "minicpm", "new"}
