"""manifest.json: every fact about an engine. Nothing is ever inferred from a file name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from inflight.dtypes import DtypeName

FORMAT_VERSION = 4
MANIFEST_NAME = "manifest.json"

Dtype: TypeAlias = DtypeName
PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
NonNegativeInt = Annotated[int, msgspec.Meta(ge=0)]


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the manifest. Types and bounds are checked where it is read, not where it is made.

    msgspec and not pydantic, as inflight.records is: importing that and making its schemas takes longer than anything
    else that an engine needs before its first token.
    """


class LayerKind(Facts, frozen=True, kw_only=True):
    """Layers that are alike where the model's are not: their numbers ("0-4, 6-10"), window and rotary base.

    `sliding_window` None: they see all positions, or with `attention_chunk` those of their own chunk of so many.
    `rotary_base` None: they have no rotary embedding.
    """

    layers: str
    sliding_window: int | None
    rotary_base: float | None
    attention_chunk: PositiveInt | msgspec.UnsetType = msgspec.UNSET


class ModelFacts(Facts, frozen=True, kw_only=True):
    """The shape of the model, in the names of its Hugging Face config.

    `sliding_window` is that of every layer. Where layers differ it is None, and `layer_kinds` says what each has;
    otherwise the manifest has no such field. `active_parameters`: those that one token meets of a mixture of experts.
    `latent_size`: the elements of the one row that the cache holds of a token, of a model with latent attention.
    """

    architecture: str
    dtype: Dtype
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    max_position_embeddings: int
    sliding_window: int | None = None
    layer_kinds: tuple[LayerKind, ...] | msgspec.UnsetType = msgspec.UNSET
    tie_word_embeddings: bool = False
    num_parameters: int
    active_parameters: int | msgspec.UnsetType = msgspec.UNSET
    latent_size: PositiveInt | msgspec.UnsetType = msgspec.UNSET

    @property
    def cached_rows(self) -> tuple[int, int, int]:
        """Of a token in a layer's cache: how many kinds of rows (keys and values, or latents), heads of each, and the
        elements of a head.
        """
        if self.latent_size is not msgspec.UNSET:
            return 1, 1, self.latent_size
        return 2, self.num_key_value_heads, self.head_size


class Limits(Facts, frozen=True, kw_only=True):
    """What one step, one sequence and the whole batch may hold. Fixed when the engine is built."""

    max_batch_size: PositiveInt
    max_seq_len: PositiveInt
    max_num_tokens: PositiveInt
    max_logit_rows: PositiveInt


class KvCacheFacts(Facts, frozen=True, kw_only=True):
    """The paged cache. The number of blocks is chosen when the engine is loaded, from the memory it may use.
    `prefix_caching` False: no two sequences can share a block; the manifests of other engines have no such field.
    """

    dtype: Dtype
    tokens_per_block: PositiveInt
    bytes_per_block: PositiveInt
    layout: str
    prefix_caching: bool | msgspec.UnsetType = msgspec.UNSET


class ModulePrecision(Facts, frozen=True, kw_only=True):
    """How one module is stored and computed: weights at rest, activations at its input, sums.

    `scales`: what shares a scale of quantized weights, their matrix, the row of an output, or a group of `group_size`
    inputs of one; None for plain weights. Rounded activations have a scale for each row, or one that is stored where
    weights share theirs as a matrix. Sums of integers are exact in int32, which the sums of groups leave for float32.
    """

    weights: Dtype
    activations: Dtype
    accumulation: Dtype = "float32"
    group_size: int = 0
    scales: Literal["matrix", "row", "group"] | None = None


class MemoryPlan(Facts, frozen=True, kw_only=True):
    """Bytes. The workspace holds every activation of a step; nothing is allocated while stepping. The first
    `lookup_bytes` of the weights are a table of which a step reads single rows, out of the file.
    """

    weights_bytes: NonNegativeInt
    workspace_bytes: NonNegativeInt
    lookup_bytes: NonNegativeInt = 0


class WorkPlan(Facts, frozen=True, kw_only=True):
    """What a token costs: operations (a multiply and an add are two) and bytes, the terms of the roofline."""

    layer_flops_per_token: int
    logits_flops_per_row: int
    weight_bytes_per_step: int
    kv_bytes_per_token: int


class GenerationFacts(Facts, frozen=True, kw_only=True):
    """Token ids and sampling defaults of generation_config.json."""

    end_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    sampling_defaults: dict[str, float | int] = msgspec.field(default_factory=dict)


# What the tasks of engines that pool make, in words.
OUTPUTS = {
    "embed": "embeddings",
    "score": "scores of pairs",
    "classify": "classes of texts",
    "token_classify": "classes of tokens",
}


class DenseFacts(Facts, frozen=True, kw_only=True):
    """A product of a pooled vector: activation(weight x + bias), `size` numbers. `norm_epsilon`: and a LayerNorm of
    that, which has weights and no bias."""

    size: PositiveInt
    activation: Literal["identity", "tanh", "relu", "gelu"]
    norm_epsilon: float | msgspec.UnsetType = msgspec.UNSET


class PairTemplateFacts(Facts, frozen=True):
    """A chat template, as Jinja source, that makes one text of a pair: messages of the roles query and document, behind
    one of the role system where there is an instruction. `origin`: whose it is, in words."""

    source: str
    add_generation_prompt: bool = False
    origin: str | msgspec.UnsetType = msgspec.UNSET


class ScoreToken(Facts, frozen=True):
    """A token by whose logit pairs are scored. `token`: its text, unset where no tokenizer says it."""

    id: NonNegativeInt
    token: str | msgspec.UnsetType = msgspec.UNSET


class PoolingFacts(Facts, frozen=True, kw_only=True):
    """What becomes of hidden states, of an engine that generates nothing (docs/formats/embeddings.md).

    `task`: a vector of a text, a score of a pair of texts, or numbers of several labels, of a text or of each token,
    where nothing is pooled (`pooling` "none"). `output_size`: numbers that a
    step yields of each row. `causal`: tokens do not see those behind them. `token_types`: kinds of tokens that have an
    embedding and are told apart; 1: all tokens are of the first; 0: none has one. `label_names`: of a classifier's
    numbers. `prompts` are put in front of texts by their names, `default_prompt` where a text names none; where there
    is a `pair_template`, it is the instruction of pairs that have none. No `pair_template`: the tokenizer joins the
    texts of a pair. `score_tokens`: of
    a generator that scores by the logit of a token, or by what that of the first is more than that of the second.
    `dense` are products of a pooled vector, one of the other, whose float32 weights are in the safetensors file
    `dense_file` as "{number}.weight", "{number}.bias" and "{number}.norm.weight".
    """

    task: Literal["embed", "score", "classify", "token_classify"]
    pooling: Literal["mean", "cls", "last", "max", "mean_sqrt_len", "weighted_mean", "none"]
    output_size: PositiveInt
    causal: bool
    token_types: NonNegativeInt = 0
    normalize: bool = False
    activation: Literal["identity", "sigmoid", "softmax"] = "identity"
    label_names: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    prompts: dict[str, str] = msgspec.field(default_factory=dict)
    default_prompt: str | None = None
    pair_template: PairTemplateFacts | None = None
    score_tokens: tuple[ScoreToken, ...] | msgspec.UnsetType = msgspec.UNSET
    dense: tuple[DenseFacts, ...] = ()
    dense_file: str | None = None

    @property
    def scored_by(self) -> tuple[str, ...]:
        """The texts of `score_tokens`, or the id of one that no tokenizer has a text for."""
        listed = () if isinstance(self.score_tokens, msgspec.UnsetType) else self.score_tokens
        return tuple(str(each.id) if isinstance(each.token, msgspec.UnsetType) else each.token for each in listed)

    @property
    def vector_size(self) -> int:
        """The numbers of a text's vector, or the scores of a pair."""
        return self.dense[-1].size if self.dense else self.output_size

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of a classifier's numbers; those that transformers makes up where nothing names them."""
        named = () if isinstance(self.label_names, msgspec.UnsetType) else self.label_names
        return named or tuple(f"LABEL_{index}" for index in range(self.vector_size))


class SourceFacts(Facts, frozen=True, kw_only=True):
    """Where the weights came from. `rounded_by_convert`: converting the model again, as `precision` tells, gives the
    same weights; not so those that were quantized on data or by another tool. `kept_from_source`: the model itself has
    these integers and scales, and converting it without rounding keeps them.
    """

    model: str
    revision: str | None = None
    checkpoint_sha256: str
    rounded_by_convert: bool = True
    kept_from_source: bool = False


class FileFacts(Facts, frozen=True, kw_only=True):
    """Size in bytes and hex SHA-256."""

    bytes: int
    sha256: str


class EngineManifest(Facts, frozen=True, kw_only=True):
    """The whole of manifest.json but its own digest (engine_format/manifest_file.py). What is loaded is among `files`,
    which are verified and lie inside the directory.

    target_facts belong to the target, whose own record reads them (engine_format/target_facts.py). listing: a JSON file
    of tables {title: rows}, which `inflight inspect` shows. pooling: unset where the engine generates text.
    """

    format_version: int = FORMAT_VERSION
    inflight_version: str
    target: str
    target_abi: int
    target_facts: dict[str, Any] = msgspec.field(default_factory=dict)
    world_size: int = 1
    model: ModelFacts
    limits: Limits
    kv_cache: KvCacheFacts
    precision: dict[str, ModulePrecision]
    memory: MemoryPlan
    work: WorkPlan
    generation: GenerationFacts
    pooling: PoolingFacts | msgspec.UnsetType = msgspec.UNSET
    listing: str | None = None
    source: SourceFacts
    recipe: dict[str, Any]
    tools: dict[str, str]
    files: dict[str, FileFacts]

    @property
    def output_size(self) -> int:
        """The numbers that a step yields of each row: logits, or what is pooled."""
        return self.model.vocab_size if self.pooling is msgspec.UNSET else self.pooling.output_size
