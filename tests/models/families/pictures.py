"""Random models that read pictures as well, of which the text part is taken."""

from __future__ import annotations

from typing import Any

from tests.models.families.further import Extra, Further

_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_CLIP = {"model_type": "clip_vision_model", **_VISION}
_QWEN_VISION = {"depth": 1, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 16}


def _mrope(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    half = sizes["head_size"] // 2
    first = half // 2
    sections = [first, half - first - (half - first) // 2, (half - first) // 2]
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections}}


def pictures(llama4: Extra, mixed: Extra) -> dict[str, Further]:
    """Those models; the arguments draw what their decoders have beyond the common keys."""
    return {
        "llama4": Further(
            "Llama4Config",
            llama4,
            share=False,
            num_layers=3,
            text="llama4_text",
            vision={"model_type": "llama4_vision_model", **_VISION, "vision_output_dim": 16, "projector_output_dim": 16}
            | {"projector_input_dim": 16, "pixel_shuffle_ratio": 0.5},
            model_class="Llama4ForConditionalGeneration",
        ),
        "mistral3": Further(
            "Mistral3Config",
            share=False,
            text="mistral",
            vision={"model_type": "pixtral", **_VISION},
            model_class="Mistral3ForConditionalGeneration",
        ),
        "gemma3 with pictures": Further(
            "Gemma3Config",
            mixed,
            share=False,
            text="gemma3_text",
            vision=_VISION,
            model_class="Gemma3ForConditionalGeneration",
        ),
        "qwen2_vl": Further(
            "Qwen2VLConfig",
            _mrope,
            share=True,
            text="qwen2_vl_text",
            vision={"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2},
            model_class="Qwen2VLForConditionalGeneration",
        ),
        "qwen2_5_vl": Further(
            "Qwen2_5_VLConfig",
            _mrope,
            share=True,
            text="qwen2_5_vl_text",
            vision=_QWEN_VISION,
            model_class="Qwen2_5_VLForConditionalGeneration",
        ),
        "qwen3_vl": Further(
            "Qwen3VLConfig",
            _mrope,
            share=False,
            text="qwen3_vl_text",
            vision={**_QWEN_VISION, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
            model_class="Qwen3VLForConditionalGeneration",
        ),
        "llava": Further("LlavaConfig", text="llama", vision=_CLIP, model_class="LlavaForConditionalGeneration"),
        "llava of mistral": Further(
            "LlavaNextConfig",
            share=False,
            text="mistral",
            vision=_CLIP,
            model_class="LlavaNextForConditionalGeneration",
        ),
        "internvl": Further(
            "InternVLConfig",
            share=False,
            text="qwen3",
            vision={"model_type": "internvl_vision", **_VISION, "image_size": [28, 28], "patch_size": [14, 14]},
            model_class="InternVLForConditionalGeneration",
        ),
        "smolvlm": Further(
            "SmolVLMConfig", text="llama", vision=_VISION, model_class="SmolVLMForConditionalGeneration"
        ),
        "idefics3": Further(
            "Idefics3Config", text="llama", vision=_VISION, model_class="Idefics3ForConditionalGeneration"
        ),
    }
