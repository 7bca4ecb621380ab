"""config.json of a checkpoint: the documented TensorRT-LLM fields, and further ones under the key "inflight".

Unknown keys at the top are tolerated, as the format's own loader tolerates them; unknown keys in `mapping` and
`quantization` are errors there and here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from inflight.convert.checkpoint.moe_facts import MoeFacts
from inflight.convert.checkpoint.pooling import PoolingRecord
from inflight.convert.checkpoint.rope import QueryScale, RotaryScaling, parse_rotary_scaling
from inflight.convert.quantization.facts import QuantizationFacts, QuantizationRecord
from inflight.convert.quantization.modules import ModuleQuantization
from inflight.convert.quantization.scheme import WeightQuantization
from inflight.records import Record

INFLIGHT_KEY_VERSION = 1
# Far above any existing model: a greater value is corrupt, and listing the tensors would exhaust the memory.
MAX_LAYERS = 1 << 16
MAX_SIZE = 1 << 31
Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# As Hugging Face configs call them.
LayerType = Literal["full_attention", "sliding_attention", "chunked_attention"]


class ParallelMapping(Record):
    """How ranks share the model: world_size = tp_size * cp_size * pp_size.

    The fields after `cp_config` come from TensorRT-LLM 1.x; they are read and never written.
    """

    world_size: int = 1
    gpus_per_node: int = 8
    cp_size: int = 1
    tp_size: int = 1
    pp_size: int = 1
    moe_tp_size: int = -1
    moe_ep_size: int = -1
    cp_config: dict[str, Any] = Field(default={}, exclude=True)
    rank: int = Field(default=0, exclude=True)
    moe_cluster_size: int = Field(default=-1, exclude=True)
    attn_tp_size: int = Field(default=-1, exclude=True)
    attn_cp_size: int = Field(default=-1, exclude=True)
    enable_attention_dp: bool = Field(default=False, exclude=True)
    enable_lm_head_tp_in_adp: bool = Field(default=False, exclude=True)

    @model_validator(mode="after")
    def _check_world(self) -> ParallelMapping:
        if min(self.tp_size, self.pp_size, self.cp_size) < 1:
            raise ValueError("tp_size, pp_size and cp_size must be at least 1")
        if self.world_size != self.tp_size * self.pp_size * self.cp_size:
            raise ValueError(f"world_size {self.world_size} is not tp_size * cp_size * pp_size")
        return self

    @property
    def num_rank_files(self) -> int:
        """Context-parallel ranks share a file."""
        return self.tp_size * self.pp_size


class SourceFacts(Record):
    """Where the weights came from: a hub id or the name of a directory (never its path), and a digest of its files."""

    model: str
    revision: str | None = None
    sha256: str


class InflightFacts(Record):
    """What serving needs and the documented format has no field for.

    `layer_types` None: `sliding_window` is that of every layer. `layers_without_rope` are numbers of layers that have
    no rotary embedding; None: all have it. `local_rotary_scaling` is that of sliding layers, whose rotary base is the
    config's rope_local_base_freq. `parallel`: attention and MLP read the same residual stream, through one norm or each
    through its own; None: one after the other. `clip_qkv`: queries, keys and values are cut to it. `token_types`: kinds
    of tokens that have an embedding of their own. `attention_chunk` is that of layers of that type. `query_scale`: what
    multiplies queries by their positions. `alibi_bias_max`: the flattest of linear biases is 2 to the power of less
    this. `relative_buckets` and `furthest_bucket`: of BucketsSpec; `own_relative_bias`: each layer has a table of its
    own. `relative_span` and `furthest_bucket`, if there are buckets: of DisentangledSpec. `gated_mlp`: the MLP has a
    gate, in a family that has it or not. `bidirectional`: the tokens of a decoder see all others. `embedding_size`: of
    ModelSpec. `learned_positions`: a table of positions is added to the embeddings, in a family that has it or not.
    `pooling`: what becomes of hidden states where there are no logits. `quantization` is about all quantized modules
    but those that a record of `module_quantization` names.
    """

    version: int = INFLIGHT_KEY_VERSION
    source: SourceFacts
    end_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    sampling_defaults: dict[str, float | int] = Field(default_factory=dict)
    sliding_window: int | None = None
    layer_types: tuple[LayerType, ...] | None = None
    layers_without_rope: tuple[int, ...] | None = None
    local_rotary_scaling: RotaryScaling | None = None
    parallel: Literal["one_norm", "two_norms"] | None = None
    clip_qkv: PositiveNumber | None = None
    token_types: Size | None = None
    attention_chunk: Size | None = None
    query_scale: QueryScale | None = None
    alibi_bias_max: PositiveNumber | None = None
    relative_buckets: Size | None = None
    furthest_bucket: Size | None = None
    relative_span: Size | None = None
    own_relative_bias: Literal[True] | None = None
    gated_mlp: Literal[True] | None = None
    bidirectional: Literal[True] | None = None
    embedding_size: Size | None = None
    learned_positions: Literal[True] | None = None
    pooling: PoolingRecord | None = None
    quantization: QuantizationRecord | None = None
    module_quantization: tuple[QuantizationRecord, ...] = ()

    @property
    def quantization_records(self) -> tuple[QuantizationRecord, ...]:
        """Both kinds."""
        return (*([] if self.quantization is None else [self.quantization]), *self.module_quantization)

    def to_json(self) -> dict[str, Any]:
        """Keys that say nothing are left out."""
        values = self.model_dump(mode="json")
        for key in _LEFT_OUT_OF_BLOCK:
            if values[key] is None:
                del values[key]
        if not self.module_quantization:
            del values["module_quantization"]
        if self.quantization is not None:
            values["quantization"].pop("modules")
        if self.local_rotary_scaling is not None:
            values["local_rotary_scaling"] = self.local_rotary_scaling.model_dump(mode="json", exclude_none=True)
        return values


class CheckpointConfig(BaseModel):
    """The whole of config.json, with the format's defaults filled in. What it means is a ModelSpec (derive.py).

    `head_size` may differ from hidden_size / num_attention_heads. `rotary_scaling` None means unscaled frequencies.
    `attn_bias`, `mlp_bias`, `qk_layernorm` and `tie_word_embeddings` None: the config does not say, the tensors do.
    From `inter_layernorms` on: keys that only some families have. `mlp_only_layers` are numbers of layers that have no
    experts beside others that have; the size of each expert is `moe_intermediate_size`, or `intermediate_size`. Latent
    attention has `kv_lora_rank` and the sizes behind it, of heads in their parts, and `q_lora_rank` or None.
    `quantized_layers` is that of quant_cfg.json, a file beside config.json: facts of modules by their paths, under
    quant_algo MIXED_PRECISION. `without_factors`: no tensor has factors of rows, though the facts of another writer
    say so.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), validate_by_name=True)

    producer: dict[str, str] = {}
    architecture: str
    dtype: str
    logits_dtype: str = "float32"
    vocab_size: Size
    max_position_embeddings: PositiveInt | None = None
    hidden_size: Size
    num_hidden_layers: Annotated[int, Field(ge=1, le=MAX_LAYERS)]
    num_attention_heads: Size
    num_key_value_heads: Size
    head_size: Size
    intermediate_size: Size
    hidden_act: str
    norm_epsilon: PositiveNumber = 1e-5
    position_embedding_type: str = "learned_absolute"
    rotary_base: PositiveNumber = 10000.0
    rotary_scaling: RotaryScaling | None = None
    rotary_embedding_dim: int | None = None
    attn_bias: bool | None = None
    mlp_bias: bool | None = None
    qk_layernorm: bool | None = None
    moe: MoeFacts | None = None
    use_parallel_embedding: bool = False
    embedding_sharding_dim: int = 0
    tie_word_embeddings: bool | None = None
    mapping: ParallelMapping = ParallelMapping()
    quantization: QuantizationFacts = QuantizationFacts()
    quantized_layers: dict[str, QuantizationFacts] = Field(default={}, exclude=True)
    without_factors: bool = Field(default=False, exclude=True)
    inter_layernorms: bool | None = None
    query_pre_attn_scalar: PositiveNumber | None = None
    attn_logit_softcapping: PositiveNumber | None = None
    final_logit_softcapping: PositiveNumber | None = None
    sliding_window: Size | None = None
    sliding_window_pattern: Size | None = Field(default=None, alias="_sliding_window_pattern")
    rope_local_base_freq: PositiveNumber | None = None
    embedding_multiplier: PositiveNumber | None = None
    attention_multiplier: PositiveNumber | None = None
    residual_multiplier: PositiveNumber | None = None
    output_multiplier_scale: PositiveNumber | None = None
    moe_intermediate_size: Size | None = None
    moe_shared_expert_intermediate_size: Size | None = None
    mlp_only_layers: tuple[int, ...] | None = None
    kv_lora_rank: Size | None = None
    q_lora_rank: Size | None = None
    qk_nope_head_dim: Size | None = None
    qk_rope_head_dim: Size | None = None
    v_head_dim: Size | None = None
    inflight: InflightFacts | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        filled = {key: value for key, value in values.items() if value is not None}
        hidden, heads = filled.get("hidden_size"), filled.get("num_attention_heads")
        if isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
            filled.setdefault("head_size", hidden // heads)
            filled.setdefault("num_key_value_heads", heads)
            filled.setdefault("intermediate_size", 4 * hidden)
        _fill_rotary(filled)
        return filled

    @property
    def pooling(self) -> PoolingRecord | None:
        """What becomes of hidden states, of a model that generates nothing."""
        return self.inflight.pooling if self.inflight else None

    @property
    def has_experts(self) -> bool:
        return self.moe is not None and self.moe.num_experts > 0

    @property
    def longest_sequence(self) -> int | None:
        """The longest sequence that one table of rotary angles serves; None: any."""
        scalings = (self.rotary_scaling, self.inflight.local_rotary_scaling if self.inflight else None)
        limits = [scaling.longest_sequence for scaling in scalings if scaling is not None]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def module_quantization(self) -> ModuleQuantization:
        records = self.inflight.quantization_records if self.inflight else ()
        return ModuleQuantization(self.quantization, self.quantized_layers, records)

    def quantization_of(self, module: str) -> WeightQuantization | None:
        """How the matrix of a module ("lm_head", "transformer.layers.0.mlp.fc") is stored; None for a plain one. The
        config must be a supported one.
        """
        found = self.module_quantization.of(module)
        return replace(found, scaled_inputs=False) if found is not None and self.without_factors else found

    def to_json(self) -> dict[str, Any]:
        """The documented spelling, in the order of the fields; keys that say nothing are left out."""
        values = self.model_dump(mode="json", by_alias=True)
        values["moe"] = self.moe.to_json() if self.has_experts and self.moe else None
        for key in _LEFT_OUT:
            if values[key] is None:
                del values[key]
        if self.quantization.weight_layout is None:
            del values["quantization"]["weight_layout"]
        if self.inflight is not None:
            values["inflight"] = self.inflight.to_json()
        values["rotary_scaling"] = self.rotary_scaling.to_checkpoint() if self.rotary_scaling else None
        if self.rotary_scaling is not None and self.rotary_scaling.rope_type == "longrope":
            values |= {name: values["rotary_scaling"].pop(key) for name, key in _LONGROPE_KEYS.items()}
        return values


_LEFT_OUT_OF_BLOCK = (
    *("layer_types", "layers_without_rope", "local_rotary_scaling", "parallel", "clip_qkv"),
    *("token_types", "attention_chunk", "query_scale", "alibi_bias_max"),
    *("relative_buckets", "furthest_bucket", "relative_span", "own_relative_bias", "gated_mlp", "bidirectional"),
    *("embedding_size", "learned_positions", "pooling", "quantization"),
)
# Keys of config.json that are not written where they are null.
_LEFT_OUT = (
    *("rotary_embedding_dim", "moe", "inter_layernorms", "query_pre_attn_scalar"),
    *("attn_logit_softcapping", "final_logit_softcapping", "sliding_window", "_sliding_window_pattern"),
    *("rope_local_base_freq", "embedding_multiplier", "attention_multiplier", "residual_multiplier"),
    *("output_multiplier_scale", "moe_intermediate_size", "moe_shared_expert_intermediate_size", "mlp_only_layers"),
    *("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
    "inflight",
)
# What the format keeps beside `rotary_scaling` -> its name in Hugging Face configs.
_LONGROPE_KEYS: Mapping[str, str] = {
    "original_max_position_embeddings": "original_max_position_embeddings",
    "longrope_scaling_short_factors": "short_factor",
    "longrope_scaling_long_factors": "long_factor",
}


def _fill_rotary(values: dict[str, Any]) -> None:
    """Rotary keys in all their spellings -> `rotary_scaling` as a record, `rotary_embedding_dim` as a number."""
    scaling = values.get("rotary_scaling")
    if "longrope_scaling_short_factors" in values:
        beside = {key: values[name] for name, key in _LONGROPE_KEYS.items() if name in values}
        scaling = {"type": "longrope", **beside, **(scaling if isinstance(scaling, dict) else {})}
    if isinstance(scaling, dict):
        values["rotary_scaling"] = parse_rotary_scaling(scaling, values.get("max_position_embeddings"))
    share, size = values.get("rotary_pct", 1), values.get("head_size")
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"rotary_pct must be above 0 and at most 1, not {share!r}")
    if isinstance(size, int) and share != 1:
        values.setdefault("rotary_embedding_dim", int(size * share))
