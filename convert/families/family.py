"""What a row of the family table may say. docs/extending/adding_a_family.md explains the columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.fused import Layout, Rows, halves, latent_rows, swapped
from inflight.convert.families.mixtures import Mixture
from inflight.convert.families.names import DECODER_NAMES, ROTARY_TABLES, Names, PositionRows

if TYPE_CHECKING:
    from inflight.convert.checkpoint.config import CheckpointConfig

Raw = Mapping[str, Any]
# Modules of latent attention whose rows are in another order in the source, or parts of a matrix there.
_LATENT = ("q", "q_b", "kv_a", "k_b", "v_b")


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of Hugging Face transformers, in terms of the decoder that the checkpoint describes.

    A bias is present (True), absent (False), or decided by the config key that is named; `mlp_proj_bias` is that of the
    last product of the MLP, whatever the others have. `sliding_window`: the key of
    that name applies never, always when it is not null, only when use_sliding_window is set, or in the layers that
    layer_types lists; chunked: attention_chunk_size applies in those; `full_attention_every`: of so many layers (or the
    key that says how many) the last has no window where layer_types is absent. `activation` is the key that names it;
    `keys` reads what only this family has into keys of the checkpoint, and `facts` into its `inflight` block.

    `rope_by_layer_type`: sliding and full layers have rotary parameters of their own; `partial_rotary`:
    partial_rotary_factor says how much of a head turns; `skips_rope`: no_rope_layers says which layers have no rotary
    embedding; `rope_in_windows`: those without a window have none, where there are others. `interleaved_rope`:
    neighbouring elements of a head are turned, so that the rows of queries and keys are reordered; `backward_rope`:
    halves are, the other way round. `learned_positions`: a table of positions is added to the embeddings, and nothing
    turns; `distances`: scores have a number for every distance, and nothing turns; `disentangled`: they
    have products with rows for distances, and it says of what these are made. `alibi`: scores have
    a bias linear in the distance, and nothing turns (or the key that decides); `alibi_rounded`: as bfloat16, scaled
    with the products.

    `norm` is the kind of all norms, `norm_bias` and `norm_weight` say what they have beside the arithmetic (only
    "layer" ones a bias), `norm_epsilon` is the key of the epsilon, or the epsilon itself, and `norm_offset` is added to
    the weights of norms, which the checkpoint holds with it. `qk_norm_width`: the norms of queries and keys are over
    all their heads together; `qk_norm_last`: they come after the rotation; `qk_norm_bare`: they have no weights, and
    are where there is a rotation. `embedding_norm`: there is a norm ahead of the layers, `embedding_norm_last`: behind
    the product that makes narrower embeddings as wide as they are. `bare_first`: attention of the first layer has none
    of its own. `sandwich_norms`: attention and MLP have a norm after them too; `post_norms`: after them alone.
    `parallel`: both read the same residual stream (or the key that says so), `own_mlp_norm`: each through a norm of its
    own. `scaled_embedding`: embeddings are multiplied by the square root of the hidden size. `gated_mlp`: a second
    product multiplies the activated one (or the key that says so, which `facts` reads into the fact of that name).
    `head_bias`: the vocabulary projection has a bias. `mixture`: the layers have experts. `sinks`: attention has a
    score more for each head. `latent`: keys and values of all heads are made of one row of a token, whose last elements
    turn.

    `encoder`: every token sees all others, and nothing is generated: hidden states are pooled. With `post_norms` its
    norms are of the sums with the residual stream, and there is none behind the layers. `bidirectional` is the key that
    says so of a decoder. `classifier_activation`: of the product ahead of the one that a cross-encoder ends with; None:
    there is none. Where `names` have a norm for it, it comes behind that, and the first product has no bias.
    `classifier_pooling`: what the key of that name may say. `token_head`: classifiers of single tokens end as those of
    texts do; others with one product. `carries_code`: published models bring code of their own
    (auto_map) that computes what the class of transformers does.

    `defaults` are the values that transformers assumes for keys that are absent from config.json. `decoder` makes the
    config that the other columns read of config.json, where it has other keys or a nested object. `names` are the
    source's modules, `fused` how a matrix of the source holds several of them, `transposed` those whose weights are
    (in, out), `unbiased` those that have no bias beside others of the same product, `renamed` prefixes and infixes of
    source tensors with what stands for them, `ignored` patterns of source tensors that are left out on purpose, and
    `left_out` of those that the user is told of. `also` are further architectures of the same mathematics and names.
    `own_code`: transformers has no class for the models, which bring Python code of their own.
    """

    architecture: str
    model_type: str
    also: tuple[str, ...] = ()
    own_code: bool = False
    qkv_bias: bool | str = False
    dense_bias: bool | str = False
    mlp_bias: bool | str = False
    mlp_proj_bias: bool = False
    head_bias: bool | str = False
    qk_norm: bool | str = False
    qk_norm_width: bool = False
    qk_norm_last: bool = False
    qk_norm_bare: bool = False
    alibi: bool | str = False
    alibi_rounded: bool = False
    sliding_window: Literal["never", "always", "switched", "listed", "chunked"] = "never"
    full_attention_every: int | str | None = None
    full_attention_first: bool = False
    activation: str = "hidden_act"
    keys: Callable[[ConfigValues], dict[str, Any]] = lambda _: {}
    facts: Callable[[ConfigValues], dict[str, Any]] = lambda _: {}
    decoder: Callable[[Raw], Raw] = lambda raw: raw
    rope_by_layer_type: bool = False
    partial_rotary: bool = False
    skips_rope: bool = False
    rope_in_windows: bool = False
    interleaved_rope: bool = False
    backward_rope: bool = False
    learned_positions: bool = False
    distances: bool = False
    disentangled: Callable[[Raw], PositionRows] | None = None
    norm: Literal["rms", "layer"] = "rms"
    norm_bias: bool = True
    norm_weight: bool = True
    norm_epsilon: str | float = "rms_norm_eps"
    norm_offset: float = 0.0
    embedding_norm: bool = False
    embedding_norm_last: bool = False
    bare_first: bool = False
    sandwich_norms: bool = False
    post_norms: bool = False
    parallel: bool | str = False
    own_mlp_norm: bool = False
    scaled_embedding: bool = False
    gated_mlp: bool | str = True
    mixture: Mixture | None = None
    sinks: bool = False
    latent: bool = False
    encoder: bool = False
    bidirectional: str | None = None
    classifier_activation: Literal["tanh", "relu", "gelu"] | None = None
    classifier_pooling: tuple[str, ...] = ()
    token_head: bool = False
    carries_code: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    names: Names = field(default_factory=lambda: DECODER_NAMES)
    fused: Mapping[str, Layout] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()
    unbiased: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ROTARY_TABLES
    left_out: tuple[str, ...] = ()
    # Ignored as well when the config ties it to the embedding.
    tied: str = "lm_head.weight"

    @property
    def norms_sums(self) -> bool:
        """Norms are of the sums with the residual stream, as the first encoders have them."""
        return self.encoder and self.post_norms

    @property
    def ours_alone(self) -> bool:
        """Only our own checkpoints of it are read: those of others keep facts elsewhere, and rows in another order."""
        layers = (self.parallel is True, self.own_mlp_norm, self.post_norms, self.full_attention_first, self.latent)
        routed = self.mixture is not None and self.mixture.biased_choice
        attention = (self.qk_norm_width, self.qk_norm_last, self.learned_positions, self.rope_in_windows, self.sinks)
        biased = self.alibi is not False
        return any(
            (
                *layers,
                *attention,
                self.qk_norm_bare,
                biased,
                routed,
                self.fused,
                self.interleaved_rope,
                self.backward_rope,
                not self.norm_weight,
            )
        )

    def arrangement(self, config: CheckpointConfig) -> dict[str, Rows]:
        """Every module of `names` whose rows are a part of another module, or in another order there. Modules keep
        their {layer}."""
        found: dict[str, Rows] = {}
        for module, layout in self.fused.items():
            found.update({f"{module}[{part}]": Rows(module, order) for part, order in layout(config).items()})
        if self.latent:
            names = {part: self.names[f"attention.{part}"][0] for part in _LATENT}
            return {**found, **latent_rows(config, names, neighbours=self.interleaved_rope)}
        if self.interleaved_rope or self.backward_rope:
            size, rotary = config.head_size, config.rotary_embedding_dim or config.head_size
            query, key, _ = self.names["attention.qkv"]
            for name, heads in ((query, config.num_attention_heads), (key, config.num_key_value_heads)):
                order = swapped(heads, size) if self.backward_rope else halves(heads, size, rotary)
                inner = found.get(name)
                found[name] = Rows(name, order) if inner is None else Rows(inner.module, inner.order[order])
        return found
