"""The least time that the measured limits allow a cell, from the model's shape alone.

The model is the roofline (Williams, Waterman and Patterson, 2009): a step costs its operations at the arithmetic peak
or its bytes at the bandwidth, whichever takes longer. The prompts of all users are one step, then every token is one.
Operations: products with the weights at the peak of the precision's type, attention over the tokens that a row sees at
the peak of bfloat16. Bytes: every weight once a step, and the keys and values of the context in bfloat16. Of a mixture
each token is multiplied with the experts that it meets, and a step reads those that any of its tokens is expected to
meet when all are met equally often, as with random weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare.offline.cells import Cell, Precision
from inflight.errors import InflightError

# int4: a scale of one byte per 16 weights, and the vocabulary projection in int8.
LAYER_BYTES: dict[Precision, float] = {"bf16": 2.0, "int8": 1.0, "int4": 0.5 + 1 / 16}
LOGIT_BYTES: dict[Precision, float] = {"bf16": 2.0, "int8": 1.0, "int4": 1.0}
ARITHMETIC: dict[Precision, str] = {"bf16": "bfloat16", "int8": "int8", "int4": "int8"}
KV_BYTES = 2


@dataclass(frozen=True)
class Limits:
    """GB/s and Gop/s by type, all threads together."""

    read: float
    peaks: dict[str, float]

    @staticmethod
    def best(measured: list[dict[str, float]]) -> Limits:
        """The largest of each: whatever else ran on the machine only lowers them."""
        best = {name: max(one[name] for one in measured) for name in measured[0]}
        peaks = {name.split("_")[0]: value for name, value in best.items() if name.endswith("_Gop_per_s")}
        return Limits(best["read_GB_per_s"], peaks)

    def peak(self, dtype: str) -> float:
        """Of products of this type. Raises InflightError for a record without it."""
        if dtype not in self.peaks:
            raise InflightError(f"The record has no {dtype} limit: an older version made it.", "Measure again.")
        return self.peaks[dtype]

    def roof(self, precision: Precision, intensity: float) -> float:
        """Gop/s that nothing of this precision can exceed with so many operations for each byte."""
        return min(max(self.peak(ARITHMETIC[precision]), self.peak("bfloat16")), self.read * intensity)


@dataclass(frozen=True)
class Shape:
    """Sizes that decide the work. `layer_weights`, `logit_weights` and `expert_weights` are counts of weights in matrix
    products: those of all layers that every token meets, those of the vocabulary projection, and those of one expert
    in all layers, of which a token meets `top_k` of `experts`.
    """

    layers: int
    layer_weights: int
    logit_weights: int
    query_width: int
    kv_width: int
    expert_weights: int = 0
    experts: int = 0
    top_k: int = 0

    @staticmethod
    def read(model: Path) -> Shape:
        """From the config.json of a Hugging Face directory in the shape of Llama or of GraniteMoe."""
        config: dict[str, Any] = json.loads((model / "config.json").read_text())
        hidden, inter = config["hidden_size"], config["intermediate_size"]
        head = config.get("head_dim") or hidden // config["num_attention_heads"]
        query, key_value = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
        layers, attention, mlp = config["num_hidden_layers"], hidden * (2 * query + 2 * key_value), 3 * hidden * inter
        logits, experts = config["vocab_size"] * hidden, config.get("num_local_experts")
        if experts is None:
            return Shape(layers, layers * (attention + mlp), logits, query, key_value)
        top_k = config["num_experts_per_tok"]
        return Shape(layers, layers * attention, logits, query, key_value, layers * mlp, experts, top_k)

    def met_experts(self, tokens: int) -> float:
        """How many experts of a layer so many tokens are expected to meet together."""
        return self.experts * (1 - (1 - self.top_k / self.experts) ** tokens) if self.experts else 0.0

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_width * KV_BYTES


@dataclass(frozen=True)
class Work:
    """Of one step, or summed over the steps of a cell."""

    linear_flops: float
    attention_flops: float
    bytes: float

    @property
    def flops(self) -> float:
        return self.linear_flops + self.attention_flops

    def seconds(self, limits: Limits, precision: Precision) -> float:
        """Of this work as one step."""
        linear = self.linear_flops / (limits.peak(ARITHMETIC[precision]) * 1e9)
        attention = self.attention_flops / (limits.peak("bfloat16") * 1e9)
        return max(linear + attention, self.bytes / (limits.read * 1e9))

    def bound_by(self, limits: Limits, precision: Precision) -> str:
        """The limit, in words, that this work meets first."""
        memory = self.bytes / (limits.read * 1e9) >= self.seconds(limits, precision)
        dtype = ARITHMETIC[precision]
        return f"reading {limits.read:.1f} GB/s" if memory else f"{limits.peak(dtype):,.0f} {dtype} Gop/s"


def _step(shape: Shape, precision: Precision, users: int, tokens: int, context: int) -> Work:
    """`tokens` new tokens of each user after `context` earlier ones; logits of each user's last token."""
    seen = sum(context + i + 1 for i in range(tokens))
    layer_weights = shape.layer_weights + shape.top_k * shape.expert_weights
    linear = 2.0 * users * (tokens * layer_weights + shape.logit_weights)
    attention = 4.0 * users * seen * shape.layers * shape.query_width
    read = weight_bytes(shape, precision, shape.met_experts(users * tokens))
    return Work(linear, attention, read + users * context * shape.kv_bytes_per_token)


def steps(shape: Shape, cell: Cell, precision: Precision) -> list[Work]:
    """The prompts of all users, then `output` - 1 steps of one token each."""
    prefill = _step(shape, precision, cell.users, cell.prompt, 0)
    decode = [_step(shape, precision, cell.users, 1, cell.prompt + i) for i in range(cell.output - 1)]
    return [prefill, *decode]


def bound_seconds(shape: Shape, cell: Cell, precision: Precision, limits: Limits) -> float:
    """The least time of a throughput cell."""
    return sum(work.seconds(limits, precision) for work in steps(shape, cell, precision))


def weight_bytes(shape: Shape, precision: Precision, experts: float) -> int:
    """Of all weights, so many experts of each layer among them; every step reads those that it meets again."""
    layer_weights = shape.layer_weights + experts * shape.expert_weights
    return int(layer_weights * LAYER_BYTES[precision] + shape.logit_weights * LOGIT_BYTES[precision])


def total_work(shape: Shape, cell: Cell, precision: Precision) -> Work:
    works = steps(shape, cell, precision)
    return Work(
        sum(work.linear_flops for work in works),
        sum(work.attention_flops for work in works),
        sum(work.bytes for work in works),
    )
