"""Where the rows of q, k, v, gate and up are in the fused matrices of some families, and rows in another order.

Each layout tells the rows of every part by their numbers in the source's matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from inflight.convert.checkpoint.config import CheckpointConfig

Order = npt.NDArray[np.int64]
Layout = Callable[["CheckpointConfig"], Mapping[str, Order]]
# CodeGen was trained on so many devices, each of which had q, v and k of its heads.
_CODEGEN_DEVICES = 4


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a source's module, in this order, which stand for a module of their own; `transposed`: as columns."""

    module: str
    order: Order
    transposed: bool = False


def qkv_in_turn(config: CheckpointConfig) -> dict[str, Order]:
    """All of q, then all of k, then all of v."""
    q, kv = config.num_attention_heads * config.head_size, config.num_key_value_heads * config.head_size
    return _cut(q=q, k=kv, v=kv)


def qkv_by_head(config: CheckpointConfig) -> dict[str, Order]:
    """q, k and v of each key-value head in turn: [key-value heads, queries of each + 2, head size]."""
    groups, size = config.num_key_value_heads, config.head_size
    queries = config.num_attention_heads // groups
    rows = np.arange(groups * (queries + 2) * size, dtype=np.int64).reshape(groups, queries + 2, size)
    return {"q": rows[:, :queries].reshape(-1), "k": rows[:, -2].reshape(-1), "v": rows[:, -1].reshape(-1)}


def qvk_by_device(config: CheckpointConfig) -> dict[str, Order]:
    """q, v and k of each of four groups of heads in turn."""
    rows = np.arange(3 * config.num_attention_heads * config.head_size, dtype=np.int64)
    rows = rows.reshape(_CODEGEN_DEVICES, 3, -1)
    return {"q": rows[:, 0].reshape(-1), "k": rows[:, 2].reshape(-1), "v": rows[:, 1].reshape(-1)}


def gate_up(config: CheckpointConfig) -> dict[str, Order]:
    """All of the gate, then all of what it multiplies."""
    return _cut(gate=config.intermediate_size, up=config.intermediate_size)


def up_gate(config: CheckpointConfig) -> dict[str, Order]:
    """All of what multiplies the gate, then all of the gate."""
    return _cut(up=config.intermediate_size, gate=config.intermediate_size)


def skipping(first: int) -> Layout:
    """The table of learned positions without its first rows, which no position has."""

    def layout(config: CheckpointConfig) -> dict[str, Order]:
        return {"used": np.arange(first, first + (config.max_position_embeddings or 0), dtype=np.int64)}

    return layout


def _cut(**sizes: int) -> dict[str, Order]:
    found, start = {}, 0
    for name, size in sizes.items():
        found[name] = np.arange(start, start + size, dtype=np.int64)
        start += size
    return found


def halves(heads: int, size: int, rotary: int) -> Order:
    """Rows of q or k in the order in which rotation pairs the halves of a head, where the source pairs neighbours: of
    each head first the even ones of the `rotary` that turn, then the odd ones, then the rest. Products of q and k do
    not change when both are reordered alike.
    """
    one = np.concatenate([np.arange(0, rotary, 2), np.arange(1, rotary, 2), np.arange(rotary, size)])
    order: Order = (np.arange(heads)[:, None] * size + one).reshape(-1).astype(np.int64)
    return order


def swapped(heads: int, size: int) -> Order:
    """Rows of q or k of a source that turns the other way round: the halves of each head in the place of the other."""
    one = np.concatenate([np.arange(size // 2, size), np.arange(size // 2)])
    order: Order = (np.arange(heads)[:, None] * size + one).reshape(-1).astype(np.int64)
    return order


def latent_rows(config: CheckpointConfig, names: Mapping[str, str], *, neighbours: bool) -> dict[str, Rows]:
    """The modules of latent attention, whose source turns `neighbours` or halves, and has the matrices of all heads in
    one: of each head that of keys, which is stored transposed, and that of values. `names` are the source's modules by
    ours; those of heads have {expert} in place of a number.
    """
    heads, size, rotary = config.num_attention_heads, config.head_size, config.qk_rope_head_dim or 0
    rank, plain, value = config.kv_lora_rank or 0, size - rotary, config.v_head_dim or 0
    found = {}
    if neighbours:
        found = {names[part]: Rows(names[part], _turned_last(heads, plain, rotary)) for part in ("q", "q_b")}
        found[names["kv_a"]] = Rows(names["kv_a"], _turned_last(1, rank, rotary))
    for head in range(heads):
        rows = np.arange(head * (plain + value), (head + 1) * (plain + value), dtype=np.int64)
        for part, order in (("k_b", rows[:plain]), ("v_b", rows[plain:])):
            name = names[part].replace("{expert}", str(head))
            found[name] = Rows(name.partition("[")[0], order, transposed=part == "k_b")
    return found


def _turned_last(heads: int, plain: int, rotary: int) -> Order:
    """As `halves`, of heads whose last elements turn."""
    one = np.concatenate([np.arange(plain), plain + halves(1, rotary, rotary)])
    order: Order = (np.arange(heads)[:, None] * (plain + rotary) + one).reshape(-1).astype(np.int64)
    return order
