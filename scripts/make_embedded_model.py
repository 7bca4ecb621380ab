"""Write the embedded model: a tiny Llama with random weights and a tokenizer trained on the spot.

It gives the quick start and the examples something to chat with where no trained model is at hand; what it says means
nothing. The same seed gives the same weights; the tokenizer depends on the docstrings of the Python that runs this.

    python scripts/make_embedded_model.py DIRECTORY [--seed N] [--force]
"""

from __future__ import annotations

import argparse
import ast
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from demo_model.tokenizer import MAX_POSITIONS, train_tokenizer, write_tokenizer
from safetensors.numpy import save_file

from inflight.files import atomic_directory
from inflight.progress import progress_bar

VOCAB_SIZE = 2048
HIDDEN, LAYERS, INTERMEDIATE = 256, 4, 704
HEADS, KV_HEADS, HEAD_SIZE = 4, 2, 64
MAX_MODULES = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where to write the model")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    options = parser.parse_args()
    make_embedded_model(options.directory, seed=options.seed, overwrite=options.force)
    print(options.directory)


def make_embedded_model(directory: Path, seed: int = 0, overwrite: bool = False) -> None:
    """Write a Hugging Face model directory. It appears whole or not at all."""
    bar = progress_bar("Embedded model", total=3)
    with atomic_directory(directory, overwrite=overwrite, marker="model.safetensors") as scratch, bar as advance:
        write_tokenizer(train_tokenizer(docstrings(), VOCAB_SIZE), scratch)
        advance(1, "tokenizer")
        weights = scratch / "model.safetensors"
        save_file(random_weights(seed), weights, metadata={"format": "pt"})
        weights.chmod(0o644)
        advance(1, "weights")
        write_json(scratch / "config.json", model_config())
        write_json(scratch / "generation_config.json", generation_config())
        advance(1, "done")


def model_config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_SIZE,
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        **token_ids(),
    }


def generation_config() -> dict[str, Any]:
    return {"do_sample": True, "temperature": 0.7, "top_p": 0.9, **token_ids()}


def token_ids() -> dict[str, int]:
    return {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def random_weights(seed: int) -> dict[str, npt.NDArray[Any]]:
    """Every tensor of the model, bfloat16, on a scale that keeps activations near one through all layers."""
    rng = np.random.default_rng(seed)

    def matrix(out: int, width: int, scale: float = 1.0) -> npt.NDArray[Any]:
        values = rng.standard_normal((out, width), dtype=np.float32)
        return (values * np.float32(scale * width**-0.5)).astype(ml_dtypes.bfloat16)

    norm = np.ones(HIDDEN, dtype=ml_dtypes.bfloat16)
    weights = {
        "model.embed_tokens.weight": matrix(VOCAB_SIZE, HIDDEN, scale=HIDDEN**0.5),
        "model.norm.weight": norm,
        "lm_head.weight": matrix(VOCAB_SIZE, HIDDEN, scale=4.0),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        weights |= {
            prefix + "input_layernorm.weight": norm,
            prefix + "post_attention_layernorm.weight": norm,
            prefix + "self_attn.q_proj.weight": matrix(HEADS * HEAD_SIZE, HIDDEN),
            prefix + "self_attn.k_proj.weight": matrix(KV_HEADS * HEAD_SIZE, HIDDEN),
            prefix + "self_attn.v_proj.weight": matrix(KV_HEADS * HEAD_SIZE, HIDDEN),
            prefix + "self_attn.o_proj.weight": matrix(HIDDEN, HEADS * HEAD_SIZE),
            prefix + "mlp.gate_proj.weight": matrix(INTERMEDIATE, HIDDEN),
            prefix + "mlp.up_proj.weight": matrix(INTERMEDIATE, HIDDEN),
            prefix + "mlp.down_proj.weight": matrix(HIDDEN, INTERMEDIATE),
        }
    return weights


def docstrings() -> Iterator[str]:
    """The docstrings of the standard library, read without importing it."""
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:MAX_MODULES]:
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield ast.get_docstring(node) or ""


def write_json(file: Path, contents: dict[str, Any]) -> None:
    file.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
