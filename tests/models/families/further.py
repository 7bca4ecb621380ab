"""Tiny random models of the families beyond those that every test draws from: their configs, sizes and weights.

Sizes are odd and small. What a config has beyond the common keys is drawn, so that each switch is there at times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

Extra = Callable[[Any, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Further:
    """One family: the name of its config's class, and what it has beyond the common keys.

    `share`: its heads make up the hidden size. `grouped`: it may have fewer heads of keys than of queries. `renamed`:
    common keys by the names that its config has for them. `text` is the family of the decoder inside a model that reads
    pictures, and `vision` the smallest config of the rest. `says_head_size`: its config has one, and it is no choice.
    `attention`: which of transformers' own is the judge.
    """

    config_class: str
    extra: Extra = lambda rng, sizes: {}
    share: bool = True
    grouped: bool = True
    num_layers: int = 2
    renamed: Mapping[str, str] | None = None
    text: str | None = None
    vision: Mapping[str, Any] | None = None
    model_class: str | None = None
    says_head_size: bool = False
    attention: str = "eager"

    def sizes(self, rng: Any) -> dict[str, Any]:
        """Arguments of a Shape."""
        kv_heads = int(rng.choice([1, 2, 3])) if self.grouped else int(rng.choice([2, 4]))
        queries = int(rng.choice([1, 3])) if self.grouped else 1
        head_size = 8 * int(rng.integers(1, 5))
        heads = kv_heads * queries
        sizes: dict[str, Any] = {
            "head_size": head_size,
            "num_kv_heads": kv_heads,
            "queries_per_kv": queries,
            "num_layers": self.num_layers,
            "hidden_size": heads * head_size if self.share else heads * int(rng.integers(30, 90) // heads + 1),
            "intermediate_size": int(rng.choice([56, 104, 200])),
            "vocab_size": int(rng.choice([257, 301])),
            "max_positions": 256,
            "tied": bool(rng.random() < 0.5),
        }
        return {**sizes, "extra": self.extra(rng, sizes)}

    def config(self, values: dict[str, Any]) -> Any:
        """The config of a model with these common keys."""
        made = getattr(transformers, self.config_class)
        if self.text is not None:
            of_text = {key: value for key, value in values.items() if key != "tie_word_embeddings"}
            tied = values["tie_word_embeddings"]
            return made(
                text_config={"model_type": self.text, **of_text},
                vision_config=dict(self.vision or {}),
                tie_word_embeddings=tied,
            )
        if self.share and not self.says_head_size:
            del values["head_dim"]
        if not self.grouped:
            del values["num_key_value_heads"]
        return made(**{(self.renamed or {}).get(key, key): value for key, value in values.items()})

    def model(self, config: Any) -> PreTrainedModel:
        if self.model_class is not None:
            made = getattr(transformers, self.model_class)
            return made._from_config(config, dtype=torch.float32, attn_implementation=self.attention)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=self.attention)


def decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The part that reads text: Llama 4 with pictures fails on text alone, and its decoder is a model of its own."""
    inside = getattr(model, "language_model", None)
    return model if inside is None or inside.get_output_embeddings() is None else inside


def randomize(model: PreTrainedModel) -> None:
    """Every weight, norm and bias random, on a scale that keeps logits lively."""
    added = any(name in type(model).__name__ for name in ("Gemma", "Nemotron"))
    width = model.get_input_embeddings().weight.shape[-1]
    projection = model.get_output_embeddings()
    tied = projection is not None and projection.weight is model.get_input_embeddings().weight
    for module in model.modules():
        is_norm = "Norm" in type(module).__name__
        for name, parameter in module.named_parameters(recurse=False):
            noise = torch.randn_like(parameter)
            with torch.no_grad():
                if is_norm and name == "weight":
                    parameter.copy_((0.0 if added else 1.0) + 0.2 * noise)
                elif name.endswith("bias"):
                    parameter.copy_(0.5 * noise)
                elif isinstance(module, torch.nn.Embedding):
                    parameter.copy_(noise * (3 * width**-0.5 if tied or added else 1.0))
                else:
                    inputs = parameter.shape[0 if type(module).__name__ == "Conv1D" else -1]
                    parameter.copy_(noise * 1.5 * inputs**-0.5)
