"""The network: a small Llama, and its files."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from demo_model.chat import token_ids
from demo_model.tokenizer import MAX_POSITIONS

# Every inner dimension is a multiple of 128, so that all group sizes of weight quantization fit.
HIDDEN, LAYERS, INTERMEDIATE = 384, 4, 1024
HEADS, KV_HEADS, HEAD_SIZE = 6, 2, 64


def new_model(vocab_size: int, seed: int) -> LlamaForCausalLM:
    """The model with random weights, float32; the same seed gives the same weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_SIZE,
        max_position_embeddings=MAX_POSITIONS,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        # This attention is the fastest on a CPU for rows as short as these.
        attn_implementation="eager",
        **token_ids(),
    )
    return LlamaForCausalLM(config)


def read_weights(model: LlamaForCausalLM, directory: Path) -> None:
    """Put the weights of the model that `directory` has into `model`."""
    weights = load_file(directory / "model.safetensors")
    model.load_state_dict(weights, strict=False)
    model.tie_weights()


def write_model(model: LlamaForCausalLM, directory: Path) -> None:
    """config.json, generation_config.json and model.safetensors in bfloat16."""
    weights = {
        name: value.detach().to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"  # the embedding, once more
    }
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)
    config = model.config.to_diff_dict() | {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    _write_json(directory / "config.json", config)
    _write_json(directory / "generation_config.json", {"do_sample": False, **token_ids()})


def _write_json(file: Path, contents: dict[str, object]) -> None:
    file.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
