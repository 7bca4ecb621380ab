"""The model families: one row each. docs/extending/adding_a_family.md explains the columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from inflight.convert.families.dense_modules import DENSE_NAMES
from inflight.convert.families.family import Family
from inflight.convert.families.mixtures import mixtures
from inflight.convert.families.names import DECODER_NAMES
from inflight.convert.families.pooled import missing as missing_of_pooled
from inflight.convert.families.pooled import pooled_decoder, pools, pools_as_encoder
from inflight.convert.families.rows.deepseek import DEEPSEEK
from inflight.convert.families.rows.encoders import ENCODERS
from inflight.convert.families.rows.gemma import GEMMA
from inflight.convert.families.rows.linear_biases import LINEAR_BIASES
from inflight.convert.families.rows.llama4 import LLAMA4
from inflight.convert.families.rows.llama_like import LLAMA_LIKE
from inflight.convert.families.rows.parallel import PARALLEL
from inflight.convert.families.rows.positions import POSITIONS
from inflight.convert.families.rows.post_norms import POST_NORMS
from inflight.convert.families.rows.variants import VARIANTS
from inflight.convert.families.text_parts import TEXT_PARTS, TextPart
from inflight.errors import ModelError

FAMILIES: tuple[Family, ...] = (
    *(*LLAMA_LIKE, *VARIANTS, *GEMMA, *POST_NORMS, *PARALLEL, *POSITIONS, *LINEAR_BIASES),
    *(*mixtures(Family, DECODER_NAMES), *DEEPSEEK, *LLAMA4),
)
_STATE = "layers that carry a state from token to token in place of a cache of keys and values"
_CONVOLUTIONS = "convolutions over tokens, whose last inputs are a state"
_CHOSEN = "attention to tokens that an index chooses"

# What architectures without a row need that is not there: what a refusal says beside the name.
_MISSING: Mapping[str, str] = {
    **dict.fromkeys(("MambaForCausalLM", "Mamba2ForCausalLM", "FalconMambaForCausalLM", "RwkvForCausalLM"), _STATE),
    **dict.fromkeys(("JambaForCausalLM", "BambaForCausalLM", "ZambaForCausalLM", "Zamba2ForCausalLM"), _STATE),
    **dict.fromkeys(("NemotronHForCausalLM", "GraniteMoeHybridForCausalLM", "FalconH1ForCausalLM"), _STATE),
    **dict.fromkeys(("Qwen3NextForCausalLM", "MiniMaxForCausalLM", "KimiLinearForCausalLM"), _STATE),
    **dict.fromkeys(("RecurrentGemmaForCausalLM", "xLSTMForCausalLM"), _STATE),
    **dict.fromkeys(("Lfm2ForCausalLM", "Lfm2MoeForCausalLM"), _CONVOLUTIONS),
    **dict.fromkeys(("DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM"), _CHOSEN),
    **dict.fromkeys(("T5ForConditionalGeneration", "BartForConditionalGeneration"), "an encoder beside the decoder"),
    "Gemma3nForCausalLM": "embeddings of every layer and several residual streams",
    "DbrxForCausalLM": "experts stored without names of their own, and clipped projections beside them",
    "XGLMForCausalLM": "positions of sines in place of a table",
    "PersimmonForCausalLM": "LayerNorm of queries and keys with a bias",
}
# Decoders, which also embed, and encoders, which do nothing else.
EVERY_FAMILY = (*FAMILIES, *ENCODERS)


def architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The architectures that a Hugging Face config lists; empty when it lists none."""
    listed = config.get("architectures")
    return tuple(map(str, listed)) if isinstance(listed, list) else ()


def family_of(architecture: str) -> Family:
    """The row of a supported architecture."""
    return next(family for family in EVERY_FAMILY if family.architecture == architecture)


def find_family(config: Mapping[str, Any]) -> Family | None:
    """The family of a Hugging Face config: by its architecture, or by model_type where it lists none. The row of both
    comes first, for transformers has some families under the class of another. Of a model of text and pictures it is
    that of the text, under the names that it has there; of one whose hidden states are pooled, that of its model_type.
    """
    if pools(config):
        return _pooled_family(config)
    listed, kind = architectures(config), config.get("model_type")
    for part in TEXT_PARTS:
        if part.architecture in listed or (not listed and part.model_type == kind):
            return _text_family(part, config)
    exact = (row for row in FAMILIES if row.model_type == kind and {row.architecture, *row.also} & {*listed})
    named = (row for row in FAMILIES if row.architecture in listed or (not listed and row.model_type == kind))
    return next(exact, None) or next(named, None)


def require_family(model: str, config: Mapping[str, Any]) -> Family:
    """The family of a config. Raises ModelError, which names what `model` lacks and what is supported."""
    family = find_family(config)
    if family is None:
        listed = architectures(config)
        found = ", ".join(listed) or f"model_type {config.get('model_type')!r}"
        known = ", ".join(row.architecture for row in EVERY_FAMILY)
        missing = "".join(f": it needs {_MISSING[name]}" for name in listed[:1] if name in _MISSING)
        missing = missing or (f": it needs {unpooled}" if (unpooled := missing_of_pooled(config)) else "")
        raise ModelError(
            f"{model}: {found} is not supported{missing}.",
            f"Supported architectures: {known}.\n"
            f"What transformers itself knows can be served slowly: inflight serve {model} --target transformers",
        )
    return family


def _pooled_family(config: Mapping[str, Any]) -> Family | None:
    kind = config.get("model_type")
    encoder = next((row for row in ENCODERS if row.model_type == kind), None)
    decoder = next((row for row in FAMILIES if row.model_type == kind), None)
    if encoder is not None:
        found = encoder if pools_as_encoder(config) else None
    else:
        found = None if decoder is None else pooled_decoder(decoder)
    return None if found is None else replace(found, names={**found.names, **DENSE_NAMES})


def _text_family(part: TextPart, config: Mapping[str, Any]) -> Family | None:
    """The family of the text part; None where it is none of those that are known."""
    text = config.get("text_config")
    kind = text.get("model_type") if isinstance(text, dict) else None
    kind = part.text_types.get(str(kind), kind) if kind is not None else part.text_type
    found = next((row for row in FAMILIES if row.model_type == kind), None)
    return None if found is None else part.of(found)
