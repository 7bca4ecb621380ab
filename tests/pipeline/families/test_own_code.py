"""Families that transformers has no class for: their checkpoints are those of the model that computes the same."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.families.table import EVERY_FAMILY
from inflight.convert.options import ConvertOptions
from inflight.errors import ModelError
from inflight.runtime.executors.base import PoolingExecutor
from inflight.runtime.loading.load import load_engine
from inflight.runtime.pooling.steps import TextSteps
from inflight.runtime.pooling.texts import TokenizedText
from tests.models.families.pooled import save_embedding_model, write_json
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


@pytest.mark.parametrize("target", ["reference", pytest.param("cpu", marks=pytest.mark.slow)])
def test_jinas_second_is_bert_with_linear_biases(target: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """A score has less by a slope for every token between, on both sides; and the MLP has a gate, and one bias."""
    heads, size, layers, inner = int(rng.integers(1, 7)), 8 * int(rng.integers(1, 4)), 2, int(rng.integers(20, 90))
    hidden, vocab, kind = heads * size, 61, str(rng.choice(["geglu", "reglu"]))
    shapes: dict[str, tuple[int, ...]] = {f"embeddings.{name}.weight": (rows, hidden) for name, rows in _JINA_TABLES}
    norms = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{index}." for index in range(layers)):
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{layer}{name}.weight": (hidden, hidden), f"{layer}{name}.bias": (hidden,)}
        shapes |= {f"{layer}mlp.gated_layers.weight": (2 * inner, hidden), f"{layer}mlp.wo.weight": (hidden, inner)}
        shapes |= {f"{layer}mlp.wo.bias": (hidden,)}
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}mlp.layernorm"]
    tensors = {name: torch.tensor(rng.standard_normal(shape) * shape[-1] ** -0.5) for name, shape in shapes.items()}
    tensors |= {f"{name}.weight": torch.tensor(1 + 0.2 * rng.standard_normal(hidden)) for name in norms}
    tensors |= {f"{name}.bias": torch.tensor(rng.standard_normal(hidden)) for name in norms}
    (tmp_path / "model").mkdir()
    save_file({name: each.float() for name, each in tensors.items()}, tmp_path / "model" / "model.safetensors")
    config: dict[str, Any] = {
        "architectures": ["JinaBertModel"],
        "model_type": "bert",
        "position_embedding_type": "alibi",
    }
    config |= {"hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": layers, "vocab_size": vocab}
    config |= {"intermediate_size": inner, "max_position_embeddings": 64, "type_vocab_size": 2, "layer_norm_eps": 1e-5}
    config |= {
        "feed_forward_type": kind,
        "hidden_act": "gelu",
        "auto_map": {"AutoModel": "modeling_bert.JinaBertModel"},
    }
    write_json(tmp_path / "model" / "config.json", config)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(progress=False))
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", make_recipe(target, max_batch_size=4))
    steps = TextSteps(cast(PoolingExecutor, load_engine(tmp_path / "engine", threads=1)))
    texts = [tuple(rng.integers(vocab, size=length).tolist()) for length in (1, 40, int(rng.integers(2, 64)))]
    found = steps.run([TokenizedText(text, (0,) * len(text)) for text in texts])
    steps.close()
    for text, vector in zip(texts, found, strict=True):
        expected = _jina_states(tensors, text, heads, layers, torch.nn.ReLU() if kind == "reglu" else torch.nn.GELU())
        assert np.abs(vector - expected.mean(dim=0).numpy()).max() < 1e-4


_JINA_TABLES = (("word_embeddings", 61), ("token_type_embeddings", 2))


def _jina_states(
    tensors: dict[str, torch.Tensor], text: tuple[int, ...], heads: int, layers: int, activation: torch.nn.Module
) -> torch.Tensor:
    """As its own code computes them, float64 [tokens, hidden]."""

    def product(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-5)

    nearest = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (index + 1) / nearest) for index in range(nearest)]
    slopes += [2 ** (-8 * (2 * index + 1) / (2 * nearest)) for index in range(heads - nearest)]
    places = torch.arange(len(text))
    bias = -torch.tensor(slopes, dtype=torch.float64)[:, None, None] * (places[:, None] - places[None, :]).abs()
    x = tensors["embeddings.word_embeddings.weight"][list(text)] + tensors["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    for layer in (f"encoder.layer.{index}." for index in range(layers)):
        parts = (product(x, f"{layer}attention.self.{part}") for part in ("query", "key", "value"))
        q, k, v = (part.reshape(len(text), heads, -1).transpose(0, 1) for part in parts)
        shares = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + bias, dim=-1)
        context = (shares @ v).transpose(0, 1).reshape(len(text), -1)
        x = norm(x + product(context, f"{layer}attention.output.dense"), f"{layer}attention.output.LayerNorm")
        gate, up = product(x, f"{layer}mlp.gated_layers").chunk(2, dim=-1)
        x = norm(x + product(activation(gate) * up, f"{layer}mlp.wo"), f"{layer}mlp.layernorm")
    return x


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
    own: dict[str, Any] = {
        "architectures": ["MiniCPMForCausalLM"],
        "model_type": "minicpm",
        "auto_map": {"AutoModel": "modeling.M"},
    }
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


def test_nomic_is_read_under_the_names_of_its_own_config(tmp_path: Path, rng: np.random.Generator) -> None:
    """It knows as many positions as it was trained with."""
    save_embedding_model(tmp_path / "transformers", "nomic_bert", rng, hidden_act="silu", type_vocab_size=2)
    shutil.copytree(tmp_path / "transformers", tmp_path / "nomic")
    theirs = json.loads((tmp_path / "transformers" / "config.json").read_text())
    names = {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
    names |= {"n_inner": "intermediate_size", "layer_norm_epsilon": "layer_norm_eps", "vocab_size": "vocab_size"}
    own: dict[str, Any] = {ours: theirs[name] for ours, name in names.items()}
    own |= {"architectures": ["NomicBertModel"], "model_type": "nomic_bert", "activation_function": "swiglu"}
    own |= {"n_positions": 8192, "max_trained_positions": theirs["max_position_embeddings"], "type_vocab_size": 2}
    own |= {"rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_scaling_factor": None, "prenorm": False}
    own |= {"auto_map": {"AutoModel": "modeling.NomicBertModel"}, "torch_dtype": "float32"}
    write_json(tmp_path / "nomic" / "config.json", own)
    one, other = _checkpoints(tmp_path, "transformers", "nomic")
    assert one.spec == other.spec
    write_json(
        tmp_path / "nomic" / "config.json", {**own, "num_experts": 8, "rotary_scaling_factor": 2, "prenorm": True}
    )
    with pytest.raises(ModelError, match=r"prenorm True(.*\n)*.*num_experts 8(.*\n)*.*rotary_scaling_factor 2"):
        convert_model(tmp_path / "nomic", tmp_path / "refused")


def _checkpoints(root: Path, *names: str) -> list[Checkpoint]:
    for name in names:
        convert_model(root / name, root / f"{name}-checkpoint", ConvertOptions(progress=False))
    return [Checkpoint.open(root / f"{name}-checkpoint") for name in names]


def test_code_of_its_own_is_refused_without_a_way_that_is_none(tmp_path: Path) -> None:
    """Where there is no row, whatever the code would compute; transformers has no class for it either."""
    config = {"architectures": ["BaichuanForCausalLM"], "model_type": "baichuan", "auto_map": {"AutoConfig": "x.Y"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"model.norm.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"BaichuanForCausalLM is not supported") as raised:
        convert_model(tmp_path, tmp_path / "checkpoint")
    assert "--target transformers" not in str(raised.value.hint)


def test_every_family_with_code_of_its_own_is_here() -> None:
    assert {family.model_type for family in EVERY_FAMILY if family.own_code} == {
        "internlm2",
        "jina_bert",
        "minicpm",
        "new",
    }
