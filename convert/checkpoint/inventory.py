"""Tensor tables by layer: the contents of a model or checkpoint, from its headers alone; and which of the tensors that
a model may have are there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Protocol

from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.families.table import family_of
from inflight.convert.quantization.schemes import SCALE_SUFFIXES

_LAYER = re.compile(r"(.*\blayers\.\d+)\.(.+)")


class TensorFacts(Protocol):
    """What is known of a tensor without its numbers."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """The tensors of one layer, or one tensor outside the layers. `parameters` counts elements, scales aside."""

    name: str
    tensors: tuple[TensorFacts, ...]

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors if not tensor.name.endswith(SCALE_SUFFIXES))

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(sorted({tensor.dtype for tensor in self.tensors}))


def group_by_layer(tensors: Iterable[TensorFacts]) -> list[TensorGroup]:
    """Layers in the order of their numbers; other tensors before or after them, as the computation uses them."""
    groups: dict[str, list[TensorFacts]] = {}
    for tensor in tensors:
        match = _LAYER.fullmatch(tensor.name)
        groups.setdefault(match[1] if match else tensor.name, []).append(tensor)
    found = [TensorGroup(name, tuple(sorted(members, key=_name))) for name, members in groups.items()]
    return sorted(found, key=_position)


def _name(tensor: TensorFacts) -> str:
    return tensor.name


def _position(group: TensorGroup) -> tuple[int, int, str]:
    number = re.search(r"layers\.(\d+)$", group.name)
    if number:
        return 1, int(number[1]), group.name
    return (0 if "embed" in group.name else 2), int("head" in group.name), group.name


@dataclass(frozen=True, slots=True)
class OptionalTensors:
    """Which optional tensors a model has, where the config of another tool may not say; all layers have the same."""

    qkv_bias: bool = False
    dense_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    lm_head: bool = True
    head_bias: bool = False


def stored_optionals(config: CheckpointConfig, names: Set[str]) -> OptionalTensors:
    """Those of an existing checkpoint from all its tensor names: what one layer has, every layer must have.

    What the config says is added, so that a tensor that is missing in every layer is noticed.
    """

    def present(ending: str) -> bool:
        return any(name.endswith(ending) for name in names)

    family = family_of(config.architecture)
    biased = ("fc", "gate") if family.mlp_proj_bias else ("fc", "gate", "proj")
    return OptionalTensors(
        qkv_bias=bool(config.attn_bias) or present("attention.qkv.bias") or present("attention.kv_a.bias"),
        dense_bias=present("attention.dense.bias"),
        mlp_bias=bool(config.mlp_bias) or any(present(f"mlp.{module}.bias") for module in biased),
        qk_norm=bool(config.qk_layernorm) or present("attention.q_layernorm.weight"),
        head_bias="lm_head.bias" in names or family.head_bias is True,
        lm_head=config.pooling is None
        and ("lm_head.weight" in names or config.tie_word_embeddings is False or _quantized_head(config)),
    )


def _quantized_head(config: CheckpointConfig) -> bool:
    """A quantized projection is stored, even that of a tied model: the embedding itself is never quantized."""
    return config.inflight is not None and config.quantization_of("lm_head") is not None
