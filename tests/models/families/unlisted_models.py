"""Random models that the family table has no row for, small and of odd sizes, as transformers knows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.models.families.further import randomize

VOCAB_SIZE = 461


def _persimmon(rng: Any) -> Any:
    heads, size = int(rng.integers(2, 4)), 8 * int(rng.integers(2, 4))
    return transformers.PersimmonConfig(
        hidden_size=heads * size,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=heads,
        max_position_embeddings=256,
        vocab_size=VOCAB_SIZE,
    )


def _xglm(rng: Any) -> Any:
    heads = int(rng.integers(2, 5))
    return transformers.XGLMConfig(
        d_model=heads * 6,
        ffn_dim=52,
        num_layers=2,
        attention_heads=heads,
        max_position_embeddings=256,
        vocab_size=VOCAB_SIZE,
    )


def _bloom(rng: Any) -> Any:
    heads = int(rng.choice([3, 5, 8]))
    return transformers.BloomConfig(hidden_size=heads * 7, n_head=heads, n_layer=2, vocab_size=VOCAB_SIZE)


def _mpt(rng: Any) -> Any:
    heads = int(rng.choice([3, 4, 6]))
    return transformers.MptConfig(
        d_model=heads * 9, n_heads=heads, n_layers=2, expansion_ratio=2, max_seq_len=256, vocab_size=VOCAB_SIZE
    )


def _mamba(rng: Any) -> Any:
    return transformers.MambaConfig(
        hidden_size=int(rng.integers(20, 40)),
        state_size=int(rng.integers(3, 9)),
        num_hidden_layers=2,
        conv_kernel=int(rng.integers(3, 6)),
        vocab_size=VOCAB_SIZE,
    )


def _neox_japanese(rng: Any) -> Any:
    heads = int(rng.integers(2, 5))
    return transformers.GPTNeoXJapaneseConfig(
        hidden_size=heads * 8,
        intermediate_multiple_size=2,
        num_hidden_layers=2,
        num_attention_heads=heads,
        max_position_embeddings=256,
        vocab_size=VOCAB_SIZE,
    )


CONFIGS: dict[str, Callable[[Any], Any]] = {
    "bloom": _bloom,
    "persimmon": _persimmon,
    "xglm": _xglm,
    "mamba": _mamba,
    "mpt": _mpt,
    "gpt_neox_japanese": _neox_japanese,
}


def save_unlisted(directory: Path, kind: str, rng: Any, seed: int) -> PreTrainedModel:
    """A random float32 model of this kind, saved in `directory`."""
    config = CONFIGS[kind](rng)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    if kind != "mamba":
        randomize(model)
    model.save_pretrained(directory)
    return model
