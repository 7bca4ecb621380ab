"""What each of the further families has beyond the common keys, drawn so that each switch is there at times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.models.families.further import Extra, Further
from tests.models.families.mixtures import random_latent_attention
from tests.models.families.pictures import pictures
from tests.models.ropes import random_rope

FULL, SLIDING = "full_attention", "sliding_attention"


def _flag(rng: Any) -> bool:
    return bool(rng.random() < 0.5)


def _biases(*keys: str) -> Extra:
    return lambda rng, sizes: {key: _flag(rng) for key in keys}


def _mixed(every: int, first: int = 1) -> Extra:
    def extra(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
        types = [SLIDING if (layer + first) % every else FULL for layer in range(sizes["num_layers"])]
        return {"sliding_window": int(rng.integers(5, 40)), "layer_types": types}

    return extra


def _both(*extras: Extra) -> Extra:
    return lambda rng, sizes: {key: value for each in extras for key, value in each(rng, sizes).items()}


def _partial(*shares: float) -> Extra:
    return lambda rng, sizes: {
        "rope_parameters": {"rope_type": "default", "partial_rotary_factor": float(rng.choice(shares))}
    }


def _phi3(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    share = float(rng.choice([0.5, 0.75, 1.0]))
    window = int(rng.integers(5, 40)) if _flag(rng) else None
    if _flag(rng):
        rope = {"rope_type": "default", "partial_rotary_factor": share}
        return {"rope_parameters": rope, "sliding_window": window}
    rope = random_rope(rng, "longrope", int(sizes["head_size"] * share))
    rope = {**rope, "partial_rotary_factor": share}
    rope.pop("factor", None)
    rope.pop("original_max_position_embeddings", None)
    return {"rope_parameters": rope, "sliding_window": window, "original_max_position_embeddings": 200}


def _falcon_biases(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    """As Falcon-RW; transformers takes parallel layers with them as well."""
    heads = sizes["num_kv_heads"] * sizes["queries_per_kv"]
    return {
        "alibi": True,
        "multi_query": False,
        "num_kv_heads": heads,
        "parallel_attn": _flag(rng),
        "bias": _flag(rng),
    }


def _mpt(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    clip = float(rng.uniform(0.3, 2)) if _flag(rng) else None
    scale = float(rng.uniform(0.05, 0.5)) if _flag(rng) else None
    return {"attn_config": {"clip_qkv": clip, "softmax_scale": scale}}


def _llama4(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    """A layer in three turns not; chunks and lengths end within the tests' sequences."""
    count, layers = int(rng.integers(2, 7)), sizes["num_layers"]
    mixed = {"moe_layers": [int(rng.integers(layers))]} if _flag(rng) else {"interleave_moe_layer_step": 2}
    tuning = {"attn_temperature_tuning": bool(rng.random() < 0.7), "floor_scale": int(rng.integers(5, 40))}
    return {
        "num_local_experts": count,
        "num_experts_per_tok": int(rng.integers(1, count + 1)),
        "intermediate_size_mlp": int(rng.integers(9, 90)),
        "no_rope_layers": [int(layer % 3 != 1) for layer in range(layers)],
        "attention_chunk_size": int(rng.integers(5, 40)) if rng.random() < 0.8 else None,
        "attn_scale": float(rng.uniform(0.1, 1)),
        "use_qk_norm": _flag(rng),
        "attention_bias": _flag(rng),
        **mixed,
        **tuning,
    }


def _youtu(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    """There are no key-value heads of its own; and transformers clears the row of a padding token when it loads one."""
    heads = sizes["num_kv_heads"] * sizes["queries_per_kv"]
    return {**random_latent_attention(rng), "num_key_value_heads": heads, "pad_token_id": None}


def _minicpm3(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    """Its halves turn, where those of the others are neighbours; scales may be absent."""
    scales = {"scale_emb": float(rng.uniform(0.5, 13)), "scale_depth": float(rng.uniform(0.5, 2))}
    scales |= {"dim_model_base": int(rng.integers(9, 90))}
    found = {**_youtu(rng, sizes), **scales, "mlp_bias": _flag(rng)}
    return found if _flag(rng) else {**found, "scale_depth": None, "dim_model_base": None}


def _hunyuan(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    scaled = {"rope_type": "dynamic", "alpha": float(rng.uniform(2, 1000)), "rope_theta": 10000.0, "factor": 1.0}
    return {"attention_bias": _flag(rng), **({"rope_parameters": scaled} if _flag(rng) else {})}


def _ministral3(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    rope = {**random_rope(rng, "yarn", sizes["head_size"]), "original_max_position_embeddings": 40}
    return {"rope_parameters": {**rope, "llama_4_scaling_beta": float(rng.uniform(0.1, 1))}}


def _olmo3(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    full, local = ({"rope_type": "default", "rope_theta": float(base)} for base in rng.uniform(100, 1e6, 2))
    return {"rope_parameters": {FULL: full, SLIDING: local}, "attention_bias": _flag(rng)}


def _nanochat(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    cap = float(rng.uniform(2, 20)) if _flag(rng) else None
    return {"attention_bias": _flag(rng), "final_logit_softcapping": cap}


def _hyperclovax(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    names = ("embedding_multiplier", "residual_multiplier", "logits_scaling")
    scales = {name: float(rng.uniform(0.1, 3)) for name in names}
    return scales | {"attention_multiplier": float(rng.uniform(0.02, 0.3)) if _flag(rng) else None}


def _gemma2(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    caps = {"final_logit_softcapping": float(rng.uniform(2, 10)), "attn_logit_softcapping": float(rng.uniform(1, 5))}
    return caps | {"query_pre_attn_scalar": int(rng.integers(10, 200))}


def _stablelm(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    return {"use_parallel_residual": True, "use_qkv_bias": _flag(rng), **_partial(0.25, 0.75)(rng, sizes)}


def _falcon(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    kind = int(rng.integers(4))
    heads = sizes["num_kv_heads"] * sizes["queries_per_kv"]
    newer = {"new_decoder_architecture": True, "num_kv_heads": sizes["num_kv_heads"]}
    switches = [
        {"multi_query": True, "parallel_attn": True},
        {"multi_query": True, "parallel_attn": False},
        {"multi_query": False, "num_kv_heads": heads, "parallel_attn": True},
        newer | {"num_ln_in_parallel_attn": int(rng.integers(1, 3))},
    ]
    return {**switches[kind], "bias": _flag(rng)}


def _turned(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    return {"rotary_dim": 4 * int(rng.integers(1, sizes["head_size"] // 4 + 1))}


def _gpt_neo(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    return {"attention_types": [[["global", "local"], 1]], "window_size": int(rng.integers(5, 40))}


def _internlm3(rng: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(("attention_bias", "mlp_bias"), _flag(rng))


_GPT2 = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "intermediate_size": "n_inner",
}
_BLOOM = {"num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
_MPT = {"hidden_size": "d_model", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
_GPT_NEO = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}
_ATTENTION_MLP = _biases("attention_bias", "mlp_bias")

FURTHER: Mapping[str, Further] = {
    "exaone": Further("ExaoneConfig", _ATTENTION_MLP),
    "internlm3": Further("InternLM3Config", _internlm3),
    "iquestcoder": Further("IQuestCoderConfig", _ATTENTION_MLP),
    "phi3": Further("Phi3Config", _phi3),
    "youtu": Further("YoutuConfig", _youtu, share=False),
    "minicpm3": Further("MiniCPM3Config", _minicpm3, share=True, says_head_size=True),
    "seed_oss": Further("SeedOssConfig", _biases("attention_bias", "attention_out_bias", "mlp_bias"), share=False),
    "hunyuan_v1_dense": Further("HunYuanDenseV1Config", _hunyuan, share=False),
    "ministral3": Further("Ministral3Config", _ministral3, share=False),
    "cwm": Further("CwmConfig", _both(_mixed(2, 0), _biases("mlp_bias")), share=False),
    "ernie4_5": Further("Ernie4_5Config", _biases("use_bias"), share=False),
    "helium": Further("HeliumConfig", _ATTENTION_MLP, says_head_size=True),
    "glm": Further("GlmConfig", _both(_biases("attention_bias"), _partial(0.5, 1.0)), share=False),
    "arcee": Further("ArceeConfig", _ATTENTION_MLP),
    "apertus": Further("ApertusConfig", _biases("attention_bias")),
    "nemotron": Further("NemotronConfig", _both(_ATTENTION_MLP, _partial(0.5, 0.25, 1.0)), share=False),
    "jais2": Further("Jais2Config", _ATTENTION_MLP),
    "nanochat": Further("NanoChatConfig", _nanochat),
    "olmo": Further("OlmoConfig", lambda rng, sizes: {"clip_qkv": float(rng.uniform(0.3, 2)) if _flag(rng) else None}),
    "gemma": Further("GemmaConfig", _biases("attention_bias"), share=False),
    "vaultgemma": Further("VaultGemmaConfig", _both(_gemma2, _mixed(2)), share=False),
    "olmo2": Further("Olmo2Config", _biases("attention_bias")),
    "olmo3": Further("Olmo3Config", _both(_olmo3, _mixed(2))),
    "exaone4": Further("Exaone4Config", _mixed(2)),
    "glm4": Further("Glm4Config", _both(_biases("attention_bias"), _partial(0.5, 1.0)), share=False),
    "hyperclovax": Further("HyperCLOVAXConfig", _hyperclovax),
    "parallel stablelm": Further("StableLmConfig", _stablelm),
    "cohere": Further("CohereConfig", _biases("attention_bias")),
    "cohere2": Further("Cohere2Config", _mixed(2)),
    "phi": Further("PhiConfig", _partial(0.5, 0.25)),
    "gpt_neox": Further(
        "GPTNeoXConfig", _both(_biases("use_parallel_residual", "attention_bias"), _partial(0.25, 1.0)), grouped=False
    ),
    "falcon": Further("FalconConfig", _falcon, renamed={"intermediate_size": "ffn_hidden_size"}),
    "gptj": Further("GPTJConfig", _turned, grouped=False, renamed=_GPT2),
    "codegen": Further("CodeGenConfig", _turned, grouped=False, renamed=_GPT2),
    "gpt2": Further("GPT2Config", _biases("scale_attn_weights"), grouped=False, renamed=_GPT2),
    "gpt_bigcode": Further("GPTBigCodeConfig", _biases("multi_query"), grouped=False, renamed=_GPT2),
    "gpt_neo": Further(
        "GPTNeoConfig",
        _gpt_neo,
        grouped=False,
        renamed=_GPT_NEO,
    ),
    "opt": Further("OPTConfig", _biases("enable_bias"), grouped=False, renamed={"intermediate_size": "ffn_dim"}),
    "biogpt": Further("BioGptConfig", _biases("scale_embedding"), grouped=False),
    # The plain attention of transformers adds its biases twice.
    "falcon with biases": Further(
        "FalconConfig", _falcon_biases, renamed={"intermediate_size": "ffn_hidden_size"}, attention="sdpa"
    ),
    "bloom": Further("BloomConfig", grouped=False, renamed=_BLOOM),
    "mpt": Further("MptConfig", _mpt, grouped=False, renamed={**_MPT, "max_position_embeddings": "max_seq_len"}),
    "llama4_text": Further("Llama4TextConfig", _llama4, share=False, num_layers=3),
    **pictures(_llama4, _mixed(2)),
}
