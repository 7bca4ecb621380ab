"""Models that read pictures as well, of which the text part is taken: where it is in their configs and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family, Raw
from inflight.convert.families.names import below

_PICTURES = (
    "visual.*",
    "model.visual.*",
    "vision_tower.*",
    "model.vision_tower.*",
    "vision_model.*",
    "model.vision_model.*",
    "multi_modal_projector.*",
    "model.multi_modal_projector.*",
    "model.connector.*",
    "image_newline",
    "model.image_newline",
)
# Keys of the whole model that mean something else in its text part, or nothing.
_OF_THE_WHOLE = ("text_config", "vision_config", "architectures", "model_type", "hidden_size", "vocab_size")


@dataclass(frozen=True, slots=True)
class TextPart:
    """One architecture of transformers with a decoder inside.

    `text_type` is the model_type of the decoder where the config does not say, `text_types` what those are called that
    have a name of their own there. `prefix` is what transformers has before its modules, `old` what files had there
    before; `tied`: what transformers assumes where the config does not say whether the projection is the embedding.
    `defaults` are further ones than the decoder's own.
    """

    architecture: str
    model_type: str
    text_type: str
    text_types: Mapping[str, str] = field(default_factory=dict)
    prefix: str = "model.language_model."
    old: tuple[tuple[str, str], ...] = (
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
    )
    tied: bool = True
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def of(self, family: Family) -> Family:
        """The row of the decoder, under the names that it has in this model. Its pictures are left out."""

        def keys(values: ConfigValues) -> dict[str, Any]:
            found = family.keys(values)
            self._refuse_logits(values, found)
            return found

        return replace(
            family,
            keys=keys,
            names=below(self.prefix, family.names),
            fused={below_one(self.prefix, module): layout for module, layout in family.fused.items()},
            renamed=self.old,
            left_out=_PICTURES,
            decoder=lambda raw: family.decoder(self._text_config(raw)),
            defaults={**family.defaults, **self.defaults},
        )

    def _refuse_logits(self, values: ConfigValues, keys: Mapping[str, Any]) -> None:
        """What a decoder alone does with its logits is not done inside of another model."""
        if keys.get("output_multiplier_scale") not in (None, 1.0) or keys.get("final_logit_softcapping") is not None:
            values.problems.append(f"{self.architecture} of transformers neither scales nor caps its logits")

    def _text_config(self, raw: Raw) -> Raw:
        """The keys of the text part, over those of the whole where old files have no such part."""
        text = raw.get("text_config")
        inside = text if isinstance(text, dict) else {key: raw[key] for key in _OF_THE_WHOLE[4:] if key in raw}
        whole = {key: value for key, value in raw.items() if key not in _OF_THE_WHOLE}
        tied = raw.get("tie_word_embeddings", inside.get("tie_word_embeddings", self.tied))
        return plain_rope({**whole, **inside, "tie_word_embeddings": tied})


def below_one(prefix: str, module: str) -> str:
    """A module of the decoder by the name that it has in the whole model."""
    return prefix + module.removeprefix("model.")


def plain_rope(raw: Raw) -> Raw:
    """Rotary parameters of text alone: positions in time, height and width are the same there."""
    result = dict(raw)
    for key in ("rope_scaling", "rope_parameters"):
        rope = raw.get(key)
        if isinstance(rope, dict) and "mrope_section" in rope:
            kept = {name: value for name, value in rope.items() if name not in ("mrope_section", "mrope_interleaved")}
            kind = kept.pop("rope_type", kept.pop("type", "default"))
            result[key] = {**kept, "rope_type": "default" if kind == "mrope" else kind}
    return result


_QWEN2_OLD = (
    ("model.visual.", "model.visual."),
    ("model.language_model.", "model.language_model."),
    ("model.", "model.language_model."),
)

TEXT_PARTS = (
    TextPart("Mistral3ForConditionalGeneration", "mistral3", "mistral"),
    TextPart("Gemma3ForConditionalGeneration", "gemma3", "gemma3_text"),
    TextPart(
        "Qwen2VLForConditionalGeneration",
        "qwen2_vl",
        "qwen2",
        {"qwen2_vl_text": "qwen2"},
        old=_QWEN2_OLD,
        tied=False,
        defaults={"num_key_value_heads": 8, "max_window_layers": 80, "rope_theta": 1e6, "rms_norm_eps": 1e-5},
    ),
    TextPart(
        "Qwen2_5_VLForConditionalGeneration",
        "qwen2_5_vl",
        "qwen2",
        {"qwen2_5_vl_text": "qwen2"},
        old=_QWEN2_OLD,
        tied=False,
        defaults={"num_key_value_heads": 8, "max_window_layers": 80, "rope_theta": 1e6, "rms_norm_eps": 1e-5},
    ),
    TextPart(
        "Qwen3VLForConditionalGeneration",
        "qwen3_vl",
        "qwen3",
        {"qwen3_vl_text": "qwen3"},
        tied=False,
        defaults={"rope_theta": 5e5},
    ),
    TextPart(
        "Llama4ForConditionalGeneration",
        "llama4",
        "llama4_text",
        prefix="language_model.model.",
        old=(("language_model.lm_head.", "lm_head."),),
        tied=False,
    ),
    TextPart("LlavaForConditionalGeneration", "llava", "llama", tied=False),
    TextPart("LlavaNextForConditionalGeneration", "llava_next", "llama", tied=False),
    TextPart("InternVLForConditionalGeneration", "internvl", "qwen2"),
    TextPart("SmolVLMForConditionalGeneration", "smolvlm", "llama", prefix="model.text_model.", old=(), tied=False),
    TextPart("Idefics3ForConditionalGeneration", "idefics3", "llama", prefix="model.text_model.", old=(), tied=False),
)
