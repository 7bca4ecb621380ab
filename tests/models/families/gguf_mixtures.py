"""Writes GGUF files of random mixtures of experts as llama.cpp's converter does: stacks, transposed heads, keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.models.families.mixtures import LATENT
from tests.models.gguf_files import write_gguf
from tests.models.random_models import Shape, random_shape

Floats = npt.NDArray[np.float32]
# transformers' model types -> llama.cpp's architectures.
MIXTURES = {
    "mixtral": "llama",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "olmoe": "olmoe",
    "granitemoe": "granitemoe",
    "granitemoeshared": "granitemoe",
    "gpt_oss": "gpt-oss",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
}
_TURNS_NEIGHBOURS = ("llama", "granitemoe")
_SIGMOID = 2


def random_mixture_shape(rng: np.random.Generator, family: str, **sizes: Any) -> Shape:
    """A random shape that llama.cpp knows: experts in every layer, and the weights that it computes for them."""
    shape = replace(random_shape(rng, family), **sizes)
    extra = {key: value for key, value in shape.extra.items() if key not in ("mlp_only_layers", "decoder_sparse_step")}
    if family in LATENT:  # llama.cpp has no biases there
        extra["attention_bias"] = False
    if "norm_topk_prob" in extra:
        extra["norm_topk_prob"] = family == "qwen3_moe"
    if family == "gpt_oss":
        extra["rope_parameters"] = {**extra["rope_parameters"], "truncate": False}
    elif "rope_parameters" in extra:  # the file has one number for both
        rope = extra["rope_parameters"]
        extra["rope_parameters"] = rope | ({"mscale": rope["mscale_all_dim"]} if "mscale" in rope else {})
    return replace(shape, sliding_window=None, extra=_rounded(extra))


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers that a file, whose floats are float32, gives back as they were."""
    return {
        key: round(value, 3) if isinstance(value, float) else _rounded(value) if isinstance(value, dict) else value
        for key, value in values.items()
    }


def write_mixture(
    path: Path,
    model: Any,
    pack: Callable[[str, Floats], tuple[Any, Any]] = lambda _, tensor: (tensor, None),
    *,
    fused: bool = False,
    leave_out: tuple[str, ...] = (),
) -> dict[str, Floats]:
    """Write `model` of transformers; `pack` gives what is stored of a tensor, and its gguf type. Returns the tensors by
    llama.cpp's names. `fused`: gates of experts are in one stack with what multiplies them. `leave_out`: keys.
    """
    import gguf

    config = model.config.to_dict()
    architecture = MIXTURES[config["model_type"]]
    code = next(code for code, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table = gguf.get_tensor_name_map(code, config["num_hidden_layers"])
    tensors = {}
    for name, tensor in _as_llama_cpp_has_it(model, architecture):
        named = table.get_name(name, try_suffixes=(".weight", ".bias"))
        assert named is not None, name
        tensors[named] = np.ascontiguousarray(tensor)
    for name in [name for name in tensors if "ffn_gate_exps" in name] if fused else ():
        both = [tensors.pop(name), tensors.pop(name.replace("gate", "up"))]
        tensors[name.replace("gate", "gate_up")] = np.concatenate(both, axis=1)
    rope = config["rope_parameters"]
    whole = {
        **config,
        "architectures": [architecture],
        "head_dim": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        "rope_theta": rope["rope_theta"],
    }
    keys = {f"{architecture}.{key}": value for key, value in (_keys(config) | _yarn(config)).items()}
    write_gguf(path, whole, {name: pack(name, tensor) for name, tensor in tensors.items()}, keys, leave_out)
    return tensors


def _as_llama_cpp_has_it(model: Any, architecture: str) -> Iterator[tuple[str, Floats]]:
    """Names that the table of the gguf package knows."""
    config = model.config
    alternates = architecture == "gpt-oss"
    for name, parameter in model.state_dict().items():
        tensor, stem = parameter.float().numpy(), name.rpartition(".")[0].replace("block_sparse_moe", "mlp")
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if architecture in _TURNS_NEIGHBOURS and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
            yield name, halves.swapaxes(1, 2).reshape(tensor.shape)
        elif ".experts.gate_up_proj" in name or ".experts.down_proj" in name or "shared_mlp.input_linear" in name:
            kind = "bias" if name.endswith("_bias") else "weight"
            matrix = tensor.swapaxes(-1, -2) if alternates and kind == "weight" else tensor
            axis = -1 if kind == "bias" else -2
            if ".experts.down_proj" in name:
                yield f"{stem}.down_proj.{kind}", matrix
                continue
            cut = np.moveaxis(matrix, axis, 0)
            parts = (cut[::2], cut[1::2]) if alternates else np.split(cut, 2)
            for part, rows in zip(("gate", "up"), parts, strict=True):
                module = f"{stem.replace('shared_mlp.input_linear', 'mlp.shared_expert')}.{part}_proj"
                yield f"{module}.{kind}", np.moveaxis(rows, 0, axis)
        elif name.endswith("kv_b_proj.weight"):
            heads = tensor.reshape(config.num_attention_heads, -1, tensor.shape[-1])
            keys, values = np.split(heads, [config.qk_nope_head_dim], axis=1)
            yield name.replace("kv_b", "k_b"), keys.swapaxes(1, 2)
            yield name.replace("kv_b", "v_b"), values
        elif name.endswith("e_score_correction_bias"):
            yield name.replace("correction_bias", "correction.bias"), tensor
        elif name.endswith("shared_expert_gate.weight"):
            yield name, tensor[0]
        else:
            known = name.replace("block_sparse_moe.router.weight", "block_sparse_moe.router.layer.weight")
            yield (f"{name}.weight" if name.endswith("sinks") else known), tensor


def _keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says of experts and of latent attention."""
    counts = ("num_local_experts", "num_experts", "n_routed_experts")
    keys: dict[str, Any] = {
        "expert_count": next(int(config[key]) for key in counts if config.get(key) is not None),
        "expert_used_count": config["num_experts_per_tok"],
    }
    sizes = {
        "moe_intermediate_size": "expert_feed_forward_length",
        "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
        "shared_intermediate_size": "expert_shared_feed_forward_length",
    }
    keys |= {theirs: config[ours] for ours, theirs in sizes.items() if config.get(ours)}
    if config["model_type"] not in ("deepseek_v2", "deepseek_v3"):
        return keys
    rank, rotary = config["kv_lora_rank"], config["qk_rope_head_dim"]
    grouped = config["model_type"] == "deepseek_v3" or config["topk_method"] != "greedy"
    return {
        **keys,
        "leading_dense_block_count": config["first_k_dense_replace"],
        "expert_shared_count": config["n_shared_experts"],
        "expert_weights_scale": float(config["routed_scaling_factor"]),
        "attention.kv_lora_rank": rank,
        "attention.head_count_kv": 1,
        "attention.key_length": rank + rotary,
        "attention.value_length": rank,
        "attention.key_length_mla": config["qk_nope_head_dim"] + rotary,
        "attention.value_length_mla": config["v_head_dim"],
        "rope.dimension_count": rotary,
        **({"attention.q_lora_rank": config["q_lora_rank"]} if config["q_lora_rank"] else {}),
        **(
            {"expert_group_count": config["n_group"], "expert_group_used_count": config["topk_group"]}
            if grouped
            else {}
        ),
        **({"expert_weights_norm": True, "expert_gating_func": _SIGMOID} if config["model_type"].endswith("3") else {}),
    }


def _yarn(config: Mapping[str, Any]) -> dict[str, Any]:
    rope = config["rope_parameters"]
    if rope["rope_type"] != "yarn":
        return {}
    keys = {"type": "yarn", "factor": rope["factor"]}
    keys["original_context_length"] = rope["original_max_position_embeddings"]
    keys |= {f"yarn_{name}": rope[name] for name in ("beta_fast", "beta_slow")}
    if "mscale_all_dim" in rope:
        keys["yarn_log_multiplier"] = 0.1 * rope["mscale_all_dim"]
    return {f"rope.scaling.{key}": value for key, value in keys.items()}
