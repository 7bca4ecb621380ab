"""Stacks of a GGUF file: the matrices of all experts of a layer, and those of the heads of latent attention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from inflight.convert.source.gguf.tensors import GgufTensor
from inflight.convert.source.tensor import Array, Seen, SourceTensor

# The gates of all experts with what multiplies them behind each, as llama.cpp's converter writes them when it is asked.
FUSED, GATE, UP = "ffn_gate_up_exps", "ffn_gate_exps", "ffn_up_exps"
_STACK_AXES = {"weight": 3, "bias": 2}


def split_experts(tensors: dict[str, GgufTensor]) -> dict[str, list[GgufTensor]]:
    """Every tensor of the file in a list, a stack of experts as the matrices (or biases) of each."""
    found: dict[str, list[GgufTensor]] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        stacked = module.endswith("_exps") and len(tensor.shape) == _STACK_AXES.get(kind)
        parts = tensor.parts() if stacked else [tensor]
        if stacked and module.endswith(FUSED) and tensor.shape[1] % 2 == 0:
            halves = [part.halves() for part in parts]
            for place, half in enumerate((GATE, UP)):
                found[name.replace(FUSED, half)] = [pair[place] for pair in halves]
        else:
            found[name] = parts
    return found


def key_value_products(
    tensors: dict[str, GgufTensor], modules: dict[str, str]
) -> Iterator[tuple[tuple[str, str], SourceTensor]]:
    """Of each layer whose heads have their matrices in two stacks, the names of those and the one product that they
    were. `modules`: llama.cpp's modules of what makes the latents -> Hugging Face's.
    """
    for theirs, ours in modules.items():
        prefix = theirs.removesuffix("attn_kv_a_mqa")
        names = (f"{prefix}attn_k_b.weight", f"{prefix}attn_v_b.weight")
        found = [tensors.get(name) for name in names]
        keys, values = found
        if prefix == theirs or keys is None or values is None or len(keys.shape) != 3 or len(values.shape) != 3:
            continue
        if (keys.shape[0], keys.shape[1]) == (values.shape[0], values.shape[2]):
            yield names, KeyValueProduct(f"{ours.removesuffix('kv_a_proj_with_mqa')}kv_b_proj.weight", keys, values)


class KeyValueProduct(Seen):
    """Of each head in turn the matrix of its keys, which llama.cpp's converter transposed, [heads, rank, plain], and
    that of its values, [heads, value, rank].
    """

    def __init__(self, name: str, keys: GgufTensor, values: GgufTensor) -> None:
        super().__init__(name, keys)
        self._pairs = list(zip(keys.parts(), values.parts(), strict=True))
        heads, rank, plain = keys.shape
        self._rows = plain + values.shape[1]
        self.shape, self.dtype = (heads * self._rows, rank), "float32"

    def rows(self, start: int, stop: int) -> Array:
        first = start // self._rows
        heads = [self._head(head) for head in range(first, -(-stop // self._rows))]
        none = np.empty((0, self.shape[1]), np.float32)
        rows: Array = np.concatenate([none, *heads])[start - first * self._rows : stop - first * self._rows]
        return rows

    def _head(self, head: int) -> Array:
        keys, values = self._pairs[head]
        return np.concatenate([keys.rows(0, keys.shape[0]).T, values.rows(0, values.shape[0])], dtype=np.float32)

    def levels(self, start: int, stop: int) -> None:
        return None

    @property
    def form(self) -> None:
        return None
