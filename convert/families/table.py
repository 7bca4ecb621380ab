"""The model families: one row each. docs/extending/adding_a_family.md explains the columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from inflight.convert.families.family import Family
from inflight.convert.families.mixtures import mixtures
from inflight.convert.families.names import DECODER_NAMES
from inflight.convert.families.pooling.dense import DENSE_NAMES
from inflight.convert.families.pooling.kinds import (
    behind_pooling,
    encoder_type,
    names_of_head,
    pooled_decoder,
    pools,
    pools_as_encoder,
)
from inflight.convert.families.pooling.kinds import missing as missing_of_pooled
from inflight.convert.families.rows.deepseek import DEEPSEEK
from inflight.convert.families.rows.encoders.table import ENCODERS
from inflight.convert.families.rows.gemma import GEMMA
from inflight.convert.families.rows.linear_biases import LINEAR_BIASES
from inflight.convert.families.rows.llama4 import LLAMA4
from inflight.convert.families.rows.llama_like import LLAMA_LIKE
from inflight.convert.families.rows.parallel import PARALLEL
from inflight.convert.families.rows.positions import POSITIONS
from inflight.convert.families.rows.post_norms import POST_NORMS
from inflight.convert.families.rows.routed import ROUTED
from inflight.convert.families.rows.variants import VARIANTS
from inflight.convert.families.text_parts import TEXT_PARTS, TextPart
from inflight.errors import ModelError

FAMILIES: tuple[Family, ...] = (
    *(*LLAMA_LIKE, *VARIANTS, *GEMMA, *POST_NORMS, *PARALLEL, *POSITIONS, *LINEAR_BIASES),
    *(*mixtures(Family, DECODER_NAMES), *DEEPSEEK, *LLAMA4, *ROUTED),
)
# What architectures without a row need that is not there: what a refusal says beside the name.
LACKING: Mapping[str, tuple[str, ...]] = {
    "layers that carry a state from token to token in place of a cache of keys and values": (
        *("MambaForCausalLM", "Mamba2ForCausalLM", "FalconMambaForCausalLM", "RwkvForCausalLM", "xLSTMForCausalLM"),
        *("JambaForCausalLM", "BambaForCausalLM", "ZambaForCausalLM", "Zamba2ForCausalLM", "ZayaForCausalLM"),
        *("NemotronHForCausalLM", "GraniteMoeHybridForCausalLM", "FalconH1ForCausalLM", "RecurrentGemmaForCausalLM"),
        *("Qwen3NextForCausalLM", "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM", "MiniMaxForCausalLM"),
        *("KimiLinearForCausalLM", "BailingHybridForCausalLM", "OlmoHybridForCausalLM", "LaraMiniForCausalLM"),
        *("InklingForCausalLM", "Inkling2ForCausalLM", "Inkling2LoopForCausalLM", "Qwen4ExpForCausalLM"),
    ),
    "convolutions over tokens, whose last inputs are a state": (
        *("Lfm2ForCausalLM", "Lfm2MoeForCausalLM", "Lfm3ForCausalLM"),
    ),
    "attention to tokens that an index chooses": (
        *("DeepseekV32ForCausalLM", "DeepseekV4ForCausalLM", "GlmMoeDsaForCausalLM", "AXK2ForCausalLM"),
        *("Dots3NoteForCausalLM", "HYV4ForCausalLM", "MiniMaxM3VLForCausalLM"),
    ),
    "a gate of attention's output": ("AfmoeForCausalLM", "BeamForCausalLM", "DoryForCausalLM", "LagunaForCausalLM"),
    "norms inside attention and MLP": ("BitNetForCausalLM",),
    "attention of two softmaxes, of which one is taken off": ("DiffLlamaForCausalLM",),
    "attention to positions that a learned mask chooses": ("DogeForCausalLM",),
    "embeddings of every layer, and keys and values that layers share": (
        *("Gemma3nForCausalLM", "Gemma4ForCausalLM", "Gemma4AssistantForCausalLM"),
    ),
    "values of another size than keys beside attention that is not latent": ("MiMoV2FlashForCausalLM",),
    "experts that yield their input": ("LongcatFlashForCausalLM",),
    "a norm behind the experts": ("AXK1ForCausalLM",),
    "rotary bases of single layers": ("GraniteSWAForCausalLM", "GraniteMoeSWAForCausalLM"),
    "logistic weights of experts that are chosen by their logits": (
        *("Kolibri1ForCausalLM", "FlintForCausalLM", "Cohere2MoeForCausalLM"),
    ),
    "experts of attention": ("JetMoeForCausalLM",),
    "experts stored without names of their own, and clipped projections beside them": ("DbrxForCausalLM",),
    "positions of sines in place of a table": ("XGLMForCausalLM", "CTRLLMHeadModel"),
    "LayerNorm of queries and keys with a bias": ("PersimmonForCausalLM", "FuyuForCausalLM"),
    "a bias of one product alone, and an MLP without any": ("GPTNeoXJapaneseForCausalLM",),
    "norms of the sums with the residual stream, in a decoder": ("OpenAIGPTLMHeadModel",),
    "layers that run several times": ("HrmTextForCausalLM",),
    "patches of bytes": ("BltForCausalLM",),
    "a product and a norm ahead of the vocabulary projection": ("ModernBertDecoderForCausalLM",),
    "a vocabulary projection of fewer rows than the embedding": ("Apertus1p5TextForCausalLM",),
    "a bias of attention for segments": ("CpmAntForCausalLM",),
    "an encoder beside the decoder": (
        *("T5ForConditionalGeneration", "BartForConditionalGeneration", "BartForCausalLM", "MarianForCausalLM"),
        *("MBartForCausalLM", "PegasusForCausalLM", "BlenderbotForCausalLM", "ProphetNetForCausalLM"),
        *("MvpForCausalLM", "PLBartForCausalLM", "BigBirdPegasusForCausalLM", "WhisperForCausalLM", "TrOCRForCausalLM"),
    ),
}
_GENERATES = re.compile("CausalLM|LMHead|ForConditionalGeneration")
_MISSING: Mapping[str, str] = {name: reason for reason, names in LACKING.items() for name in names}
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
        kinds = (row.model_type for row in ENCODERS)
        needs = (*map(_MISSING.get, listed[:1]), missing_of_pooled(config, encoder=encoder_type(config) in kinds))
        told = ", or ".join(filter(None, needs))
        missing = f": it needs {told}" if told else ""
        raise ModelError(
            f"{model}: {found} is not supported{missing}.",
            f"Supported architectures: {known}." + _elsewhere(model, config),
        )
    return family


def _elsewhere(model: str, config: Mapping[str, Any]) -> str:
    """What can be done with a model that has no row, where transformers has a class that generates text with it."""
    listed = architectures(config)
    # Of an encoder with another head, transformers has a class of that type without weights.
    if listed and not any(map(_GENERATES.search, listed)):
        return ""
    try:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as known
    except ImportError:
        known = {}
    if known and config.get("model_type") not in known:
        return ""
    return f"\nWhat transformers itself knows can be served slowly: inflight serve {model} --target transformers"


def _pooled_family(config: Mapping[str, Any]) -> Family | None:
    kind = encoder_type(config)
    encoder = next((row for row in ENCODERS if row.model_type == kind), None)
    decoder = next((row for row in FAMILIES if row.model_type == kind), None)
    if encoder is not None:
        found = encoder if pools_as_encoder(config) else None
    else:
        found = None if decoder is None else pooled_decoder(decoder)
    if found is None:
        return None
    return replace(found, names={**names_of_head(config, found), **DENSE_NAMES, **behind_pooling(config, found)})


def _text_family(part: TextPart, config: Mapping[str, Any]) -> Family | None:
    """The family of the text part; None where it is none of those that are known."""
    text = config.get("text_config")
    kind = text.get("model_type") if isinstance(text, dict) else None
    kind = part.text_types.get(str(kind), kind) if kind is not None else part.text_type
    found = next((row for row in FAMILIES if row.model_type == kind), None)
    return None if found is None else part.of(found)
