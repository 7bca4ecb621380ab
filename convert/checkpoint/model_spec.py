"""The model as its mathematics: what every layer computes, with every size and constant, and nothing about files.

The network, the reference decoder, the tensors of a checkpoint and the facts of an engine all follow this one record.
`convert/checkpoint/derive.py` makes it of a checkpoint's config.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inflight.convert.checkpoint.position_spec import DisentangledSpec, PositionBias, QueryScaleSpec, Sight
from inflight.convert.checkpoint.rope import RotaryScaling

# silu: x * sigmoid(x). gelu: x * Phi(x), Phi the normal distribution; gelu_tanh approximates it by a tanh. relu:
# max(x, 0); relu2: its square.
Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2", "xielu"]
# clamped_swiglu, of experts alone: with g = min(gate, 7) and u = up within -7 .. 7, (u + 1) g sigmoid(1.702 g).
ExpertActivation = Activation | Literal["clamped_swiglu"]
CLAMP_LIMIT, CLAMP_SLOPE = 7.0, 1.702
# So many of the greatest scores, with their bias, are those of a group of experts.
SCORED_BY = 2
Routing = Literal["softmax", "renormalized", "sparse_mixer", "biased_softmax", "biased_sigmoid", "sigmoid_inputs"]
# Whose hidden states a pooled model yields: those of every token of a text, of its first, or of its last.
PooledRows = Literal["all", "first", "last"]


@dataclass(frozen=True, slots=True)
class NormSpec:
    """A norm over the last axis: root mean square, or mean and variance ("layer"). `module` is its checkpoint name.

    The stored weight is the factor itself: an offset that a family adds (1 + weight) is in it already. `weight` False:
    there is none, and nothing is multiplied. `wide`: written as float32 whatever the checkpoint's type, because the sum
    does not fit a shorter one.
    """

    module: str
    size: int
    epsilon: float
    kind: Literal["rms", "layer"] = "rms"
    bias: bool = False
    wide: bool = False
    weight: bool = True


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding (Su et al., 2021) of the first `dim` of each head's elements, their halves paired."""

    dim: int
    base: float
    scaling: RotaryScaling | None = None


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """Multi-head latent attention (DeepSeek-AI, 2024). Of a token the cache holds one row for all heads: a latent c of
    `rank` elements, normed, and behind it what turns of its keys. A head's key is (K c, that rotated part), its value
    V c, with matrices K (plain_size, rank) and V (value_size, rank) of its own; a query's first `plain_size` elements
    meet K c, the others, which turn as well, the rest.

    Queries are one product of the layer's input, or of a normed product of `query_rank` elements of it.
    """

    rank: int
    plain_size: int
    value_size: int
    norm: NormSpec
    query_rank: int | None
    query_norm: NormSpec | None


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Attention with grouped key-value heads. `causal`, `window`, `chunk`: see Sight.

    softmax(cap(scale * q k) + bias) v, where cap(x) = softcap * tanh(x / softcap), or x when there is none. `rope`
    None: nothing turns. `query_scale` multiplies queries last, by their positions; None: nothing does.

    q, k and v are cut to -clip .. clip first, where it is not None. The norms of q and k are those of each head, or
    with `norm_wide` of all heads together; they come before the rotation, or with `norm_last` after it. `sinks`: each
    head has a number that is one score more of every row, whose value is 0 (Xiao et al., 2024, with learned scores).

    `disentangled`: scores have products with rows for distances beside q k. There is no bias, rotation or window then.

    `latent`: keys and values of all heads are made of one row of a token. Then there is one key-value head, and
    `head_size` is that of queries, of which the last `rope.dim` elements turn.
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    rope: RopeSpec | None
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    bias: PositionBias | None = None
    disentangled: DisentangledSpec | None = None
    query_scale: QueryScaleSpec | None = None
    qkv_bias: bool = False
    dense_bias: bool = False
    q_norm: NormSpec | None = None
    k_norm: NormSpec | None = None
    norm_wide: bool = False
    norm_last: bool = False
    clip: float | None = None
    sinks: bool = False
    causal: bool = True
    latent: LatentSpec | None = None

    @property
    def sight(self) -> Sight:
        return Sight(self.causal, self.window, self.chunk)

    @property
    def cached_elements(self) -> int:
        """Elements that a token leaves in the layer's cache."""
        if self.latent is None:
            return 2 * self.num_kv_heads * self.head_size
        return self.latent.rank + self.head_size - self.latent.plain_size


@dataclass(frozen=True, slots=True)
class MlpSpec:
    """proj(act(fc(x)) * gate(x)), or proj(act(fc(x))) when it is not gated. `bias`: of all its products, `proj_bias`:
    of the last one.

    xielu (Huang and Schlag, 2024) has four numbers of its own, mlp.act.weight: p, n, beta and epsilon. It is
    softplus(p) x^2 + beta x above 0, and (softplus(n) + beta) (e^min(x, epsilon) - 1 - x) + beta x elsewhere.
    """

    size: int
    activation: Activation
    gated: bool = True
    bias: bool = False
    proj_bias: bool = False

    @property
    def last_bias(self) -> bool:
        return self.bias or self.proj_bias


@dataclass(frozen=True, slots=True)
class SharedExpertSpec:
    """An MLP that every token meets beside its experts. `gated`: what it yields is multiplied by the logistic function
    of one product more of the token (shared_expert_gate).
    """

    size: int
    gated: bool


@dataclass(frozen=True, slots=True)
class ExpertsSpec:
    """A mixture of experts: a router's logits choose `top_k` of `count` gated MLPs of `size` for each token, and the
    sum of what they yield is weighted. Of equal logits the expert of the lower number is chosen.

    `routing` gives the weights. softmax: shares of the softmax over all experts; renormalized: over the chosen ones;
    sparse_mixer (two experts): the first one's share of the experts whose logits are within 2 `epsilon` of the
    greatest, relative to the greater of that and their own magnitude, and the second one's likewise without the first.
    biased_softmax, biased_sigmoid: each expert has a score, its share of the softmax, or the logistic function of its
    logit; those are chosen whose score and stored bias together are greatest, and their scores, without it, are divided
    by their sum, or by `epsilon` if that is greater. `scale` multiplies these, and the shares of softmax.
    sigmoid_inputs: the logistic function of an expert's logit multiplies the row that the expert meets, and what
    experts yield is summed as it is.

    `groups` above 1: experts whose numbers are neighbours are a group, and only those of `top_groups` of them can be
    chosen: those groups whose greatest share is greatest, or of biased ones the sum of the two greatest scores, with
    their bias. Of equal groups that of the lower number is chosen.

    `bias`: of the router and of all products of experts.
    """

    count: int
    top_k: int
    size: int
    activation: ExpertActivation
    routing: Routing
    epsilon: float = 0.0
    scale: float = 1.0
    groups: int = 1
    top_groups: int = 1
    bias: bool = False
    shared: SharedExpertSpec | None = None

    @property
    def biased_choice(self) -> bool:
        """Whether the router has a bias that counts in the choice alone."""
        return self.routing in ("biased_softmax", "biased_sigmoid")


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """x += residual_scale * after(attention(before(x))), then the same with the MLP. A norm that is not there: None.

    `parallel`: the MLP reads the same x as attention, and both are added together; through the same norm, if
    `before_mlp` is `before_attention`. `norm_sums`: the norms after are those of the sums, x = after(x + attention(x)),
    as encoders have them (Devlin et al., 2018).
    """

    attention: AttentionSpec
    mlp: MlpSpec | ExpertsSpec
    before_attention: NormSpec | None
    before_mlp: NormSpec | None
    after_attention: NormSpec | None = None
    after_mlp: NormSpec | None = None
    residual_scale: float = 1.0
    parallel: bool = False
    norm_sums: bool = False


@dataclass(frozen=True, slots=True)
class ClassifierSpec:
    """out(act(dense(x))) of a hidden state x, both with a bias; or where `activation` is None out(x), with a bias where
    `bias` says so. With a `norm` out(norm(act(dense(x)))), and dense has no bias.
    """

    labels: int
    activation: Literal["tanh", "relu", "gelu"] | None
    norm: NormSpec | None = None
    bias: bool = False


@dataclass(frozen=True, slots=True)
class DenseSpec:
    """A product behind pooling, and the norm of what its activation makes."""

    outputs: int
    inputs: int
    bias: bool
    norm: NormSpec | None = None


@dataclass(frozen=True, slots=True)
class PooledSpec:
    """Hidden states in place of logits: those of `rows`, or what a classifier makes of them. `dense` are products that
    come behind pooling, and so behind the network.
    """

    rows: PooledRows
    classifier: ClassifierSpec | None = None
    dense: tuple[DenseSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Embedding times `embedding_scale`, layers, norm, projection (and `head_bias`) times `logit_scale`, soft cap.

    `pooled`: there is no projection; a text becomes the hidden states of some of its tokens. `embedding_norm` is that
    of the embedding, `final_norm` that behind the layers; None: there is none. `token_types`: a table of so many kinds
    of tokens, of which the first is that of a text alone, is added to the embedding as that of positions is.

    `positions`: a table of so many positions, whose row is added to that of the embedding; None: there is none. The
    tables are `embedding_size` wide where that is not None, and a product makes rows of the hidden size: behind their
    norm, or with `embedding_norm_last` ahead of it, without a bias.

    `lm_head`: the projection is a tensor of its own; otherwise it is the embedding. `max_positions`: the longest
    sequence that the model was made for; None: not known.
    """

    vocab_size: int
    hidden_size: int
    max_positions: int | None
    layers: tuple[LayerSpec, ...]
    final_norm: NormSpec | None
    lm_head: bool
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    head_bias: bool = False
    positions: int | None = None
    token_types: int | None = None
    embedding_norm: NormSpec | None = None
    embedding_size: int | None = None
    embedding_norm_last: bool = False
    pooled: PooledSpec | None = None

    @property
    def output_size(self) -> int:
        """The numbers that the network yields of a row: logits, a hidden state, or what a classifier makes of one."""
        if self.pooled is None:
            return self.vocab_size
        return self.hidden_size if self.pooled.classifier is None else self.pooled.classifier.labels

    @property
    def kv_elements(self) -> int:
        """Elements that a token leaves in all layers' caches together."""
        return sum(layer.attention.cached_elements for layer in self.layers)

    @property
    def ropes(self) -> tuple[RopeSpec, ...]:
        """Each rotary embedding once, in the order in which the layers first use them."""
        return tuple(dict.fromkeys(layer.attention.rope for layer in self.layers if layer.attention.rope is not None))

    @property
    def sights(self) -> tuple[Sight, ...]:
        """Each once, in the order in which the layers first use them."""
        return tuple(dict.fromkeys(layer.attention.sight for layer in self.layers))
