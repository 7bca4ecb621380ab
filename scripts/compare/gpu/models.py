"""The sizes of models at which kernels are measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    name: str
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab: int

    @property
    def qkv_width(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_size

    @property
    def products(self) -> dict[str, tuple[int, int]]:
        """Name to (outputs, inputs) of the matrices of a layer, and of the vocabulary's."""
        return {
            "qkv": (self.qkv_width, self.hidden),
            "dense": (self.hidden, self.num_heads * self.head_size),
            "gate_up": (2 * self.intermediate, self.hidden),
            "proj": (self.hidden, self.intermediate),
            "lm_head": (self.vocab, self.hidden),
        }


@dataclass(frozen=True)
class Mixture:
    """A model of which the mixtures of experts alone are measured: `size` of each expert, `top_k` of them for a row."""

    name: str
    hidden: int
    size: int
    experts: int
    top_k: int


MODELS = (
    Model("Llama-3.1-8B", 4096, 14336, 32, 8, 128, 128256),
    Model("Qwen2-0.5B", 896, 4864, 14, 2, 64, 151936),
)
MIXTURES = (Mixture("Qwen3-30B-A3B", 2048, 768, 128, 8),)
# Those that a kit measures.
OF_A_KIT: tuple[Model | Mixture, ...] = (MODELS[0], *MIXTURES)
# Of odd sizes, for what runs without a GPU.
TINY: tuple[Model | Mixture, ...] = (Model("tiny", 64, 160, 4, 2, 16, 300), Mixture("tiny mixture", 64, 96, 8, 2))
