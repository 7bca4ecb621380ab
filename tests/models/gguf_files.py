"""Writes GGUF files of Hugging Face models as llama.cpp's converter does: its names, its order of rows, its keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "GraniteForCausalLM": "granite",
    "SmolLM3ForCausalLM": "smollm3",
    "StableLmForCausalLM": "stablelm",
    "Starcoder2ForCausalLM": "starcoder2",
}
# A usual number of each type, where the scale of its block is 1 and the rest is random.
_SPREAD = {"Q8_0": 64, "Q3_K": 128, "Q4_K": 256, "Q5_K": 512, "Q6_K": 1280}
TURNS_NEIGHBOURS = ("llama", "granite", "smollm3")
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_KEYS = {
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "embedding_multiplier": "embedding_scale",
    "attention_multiplier": "attention.scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}


def gguf_names(config: Mapping[str, Any], names: list[str]) -> dict[str, str]:
    """Hugging Face's name of each tensor -> llama.cpp's, from the table of the gguf package."""
    import gguf

    architecture = ARCHITECTURES[config["architectures"][0]]
    code = next(code for code, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table = gguf.get_tensor_name_map(code, config["num_hidden_layers"])
    return {name: str(table.get_name(name, try_suffixes=(".weight", ".bias"))) for name in names}


def as_llama_cpp_has_it(config: Mapping[str, Any], name: str, tensor: Array) -> Array:
    """Rows of queries and keys interleaved, where neighbours are turned; Gemma's norms with the one that is added."""
    architecture = ARCHITECTURES[config["architectures"][0]]
    if architecture in TURNS_NEIGHBOURS and (".q_proj." in name or ".k_proj." in name):
        heads = config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return (tensor.astype(np.float32) + 1).astype(tensor.dtype)
    return tensor


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, tuple[Array, Any]],
    metadata: Mapping[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    tensors_a_part: int = 0,
) -> Path:
    """Write tensors by llama.cpp's names, each with its bytes or numbers and its gguf type (None: numpy's).

    `metadata` are further keys; strings, integers, floats, booleans and lists of them. With `tensors_a_part` the file
    is cut into parts of so many tensors.
    """
    import gguf

    architecture = ARCHITECTURES.get(config["architectures"][0], config["architectures"][0])
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_a_part)
    norm = "layer_norm_epsilon" if architecture in ("stablelm", "starcoder2") else "layer_norm_rms_epsilon"
    epsilon = next(config[key] for key in ("layer_norm_eps", "norm_epsilon", "rms_norm_eps") if key in config)
    keys: dict[str, Any] = {
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "block_count": config["num_hidden_layers"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "context_length": config["max_position_embeddings"],
        f"attention.{norm}": float(epsilon),
        "rope.freq_base": float(config["rope_theta"]),
        **{theirs: config[ours] for ours, theirs in _KEYS.items() if config.get(ours) is not None},
    }
    if "partial_rotary_factor" in config:
        keys["rope.dimension_count"] = int(config["head_dim"] * config["partial_rotary_factor"])
    everything = {f"{architecture}.{key}": value for key, value in keys.items()} | dict(metadata or {})
    for key, value in everything.items():
        if key not in leave_out and key != "general.architecture":
            _add(writer, key, value)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_blocks(rng: np.random.Generator, shape: tuple[int, ...], kind: str, greatest: float = 0.1) -> Array:
    """Random bytes of this type for a tensor, with scales of blocks up to `greatest`."""
    import gguf

    size, count = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    data = rng.integers(0, 256, (*shape[:-1], shape[-1] // size, count), dtype=np.uint8)
    if kind == "MXFP4":  # a power of two
        data[..., 0] = 127 + int(np.log2(greatest)) - rng.integers(0, 9, data.shape[:-1])
        return data.reshape(*shape[:-1], -1)
    scales = (0, 2) if kind in ("Q4_1", "Q5_1", "Q4_K", "Q5_K") else (0,)
    scales = (count - 4, count - 2) if kind == "Q2_K" else scales
    scales = (count - 2,) if kind in ("Q3_K", "Q6_K", "TQ1_0", "TQ2_0") else scales
    for start in scales:
        drawn = rng.uniform(-greatest, greatest, data.shape[:-1]).astype(np.float16)
        data[..., start : start + 2] = drawn[..., None].view(np.uint8)
    blocks: Array = data.reshape(*shape[:-1], -1)
    return blocks


def write_random_blocks(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Array],
    kinds: Mapping[str, str],
    rng: np.random.Generator,
    tensors_a_part: int = 0,
) -> Path:
    """A file with the tensors' vectors, and with random blocks for its matrices: of the type that the first key of
    `kinds` has which is a part of the name.
    """
    import gguf

    names, stored = gguf_names(config, list(tensors)), {}
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            stored[names[name]] = (tensor.astype(np.float32), None)
        else:
            kind = next(kind for part, kind in kinds.items() if part in name)
            # Sums over the inner dimension stay near 1: a model of larger weights doubles a rounding in every layer.
            greatest = 1.0 / np.sqrt(tensor.shape[-1])
            blocks = random_blocks(rng, tensor.shape, kind, greatest / _SPREAD.get(kind, 16))
            stored[names[name]] = (blocks, gguf.GGMLQuantizationType[kind])
    return write_gguf(path, config, stored, tensors_a_part=tensors_a_part)


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
