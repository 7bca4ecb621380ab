"""config.json of a checkpoint: the documented TensorRT-LLM fields, and ours under the key "inflight".

Unknown keys at the top are tolerated, as the format's own loader tolerates them; unknown keys in `mapping` and
`quantization` are errors there and here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from inflight.convert.checkpoint.rope import RotaryScaling, parse_rotary_scaling
from inflight.convert.families.table import FAMILIES
from inflight.convert.quantization.facts import QuantizationFacts, QuantizationRecord
from inflight.convert.quantization.scheme import WeightQuantization, quantization_problems, weight_quantization
from inflight.dtypes import FLOAT_DTYPES
from inflight.records import Record

INFLIGHT_KEY_VERSION = 1
# Far above any model there is: a config that says more is corrupt, and listing its tensors would take all memory.
MAX_LAYERS = 1 << 16
MAX_SIZE = 1 << 31
Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
    """What serving needs and the documented format has no field for."""

    version: int = INFLIGHT_KEY_VERSION
    source: SourceFacts
    end_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    sampling_defaults: dict[str, float | int] = Field(default_factory=dict)
    sliding_window: int | None = None
    quantization: QuantizationRecord | None = None


class CheckpointConfig(BaseModel):
    """The whole of config.json, with the format's defaults filled in.

    `head_size` may differ from hidden_size / num_attention_heads. `rotary_scaling` None means unscaled frequencies.
    `attn_bias`, `mlp_bias`, `qk_layernorm` and `tie_word_embeddings` None: the config does not say, the tensors do.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

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
    moe: dict[str, Any] | None = None
    use_parallel_embedding: bool = False
    embedding_sharding_dim: int = 0
    tie_word_embeddings: bool | None = None
    mapping: ParallelMapping = ParallelMapping()
    quantization: QuantizationFacts = QuantizationFacts()
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
        scaling = filled.get("rotary_scaling")
        if isinstance(scaling, dict):
            filled["rotary_scaling"] = parse_rotary_scaling(scaling, filled.get("max_position_embeddings"))
        return filled

    @property
    def sliding_window(self) -> int | None:
        """Each token sees the last `sliding_window` positions, itself included; None: all of them."""
        return self.inflight.sliding_window if self.inflight else None

    @property
    def weight_quantization(self) -> WeightQuantization | None:
        """How quantized matrices are stored; None for plain weights. The config must be a supported one."""
        return weight_quantization(self.quantization, self.inflight.quantization if self.inflight else None)

    def to_json(self) -> dict[str, Any]:
        """The documented spelling, in the order of the fields; keys that say nothing are left out."""
        values = self.model_dump(mode="json")
        for key in ("rotary_embedding_dim", "moe", "inflight"):
            if values[key] is None:
                del values[key]
        if self.quantization.weight_layout is None:
            del values["quantization"]["weight_layout"]
        if self.inflight is not None and self.inflight.quantization is None:
            del values["inflight"]["quantization"]
        values["rotary_scaling"] = self.rotary_scaling.to_checkpoint() if self.rotary_scaling else None
        return values


# Keys of the format's readers that change the mathematics unless they have this value.
_NEUTRAL: dict[str, Any] = {
    "residual_mlp": False,
    "rotary_pct": 1.0,
    "use_logn_attn": False,
    "fc_after_embed": False,
    "use_input_layernorm_in_first_layer": True,
    "use_last_layernorm": True,
    "layer_idx_offset": 0,
}


def unsupported_keys(raw: Mapping[str, Any]) -> list[str]:
    """Keys of a config.json outside the record that ask for what cannot be expressed; empty when all is well."""
    return [
        f"{key} {raw[key]!r}" for key, neutral in _NEUTRAL.items() if raw.get(key) is not None and raw[key] != neutral
    ]


def unsupported(config: CheckpointConfig) -> list[str]:
    """What this config asks for that a network of this project cannot express; empty when all is well."""
    known = [family.architecture for family in FAMILIES]
    checks = (
        (config.architecture not in known, f"architecture {config.architecture!r} (supported: {', '.join(known)})"),
        (config.dtype not in FLOAT_DTYPES, f"dtype {config.dtype!r}"),
        (config.hidden_act not in ("silu", "swiglu"), f"hidden_act {config.hidden_act!r} (supported: silu)"),
        (
            config.position_embedding_type != "rope_gpt_neox",
            f"position_embedding_type {config.position_embedding_type!r}",
        ),
        (config.rotary_embedding_dim not in (None, config.head_size), "a rotary embedding on part of each head"),
        (bool(config.moe and config.moe.get("num_experts", 0)), "a mixture of experts"),
        (config.head_size % 2 != 0, f"an odd head_size ({config.head_size})"),
        (config.num_attention_heads % config.num_key_value_heads != 0, "query heads not a multiple of key-value heads"),
        (config.mapping.cp_size != 1, "context parallelism (cp_size > 1)"),
    )
    return [reason for wrong, reason in checks if wrong] + quantization_problems(config.quantization)
