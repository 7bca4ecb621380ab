"""Rotary parameters of every kind, as configs of transformers 5 have them; without torch."""

from __future__ import annotations

from typing import Any

ROPE_KINDS = (
    "default",
    "linear",
    "dynamic",
    "llama3",
    "yarn",
    "yarn-mscale",
    "yarn-plain",
    "longrope",
    "longrope-ratio",
)


def random_rope(rng: Any, kind: str, rotary_dim: int) -> dict[str, Any]:
    """Rotary parameters of a kind, as a config of transformers 5 has them, for heads of which `rotary_dim` turn."""
    name, _, variant = kind.partition("-")
    rope: dict[str, Any] = {"rope_type": name, "rope_theta": float(rng.uniform(100, 1e6))}
    if name != "default":
        rope["factor"] = float(rng.uniform(1.5, 40))
    if name == "llama3":
        low = float(rng.uniform(0.5, 2))
        rope |= {"low_freq_factor": low, "high_freq_factor": low * float(rng.uniform(2, 5))}
    if name in ("llama3", "yarn", "longrope"):
        rope["original_max_position_embeddings"] = int(rng.integers(100, 500))
    if name == "longrope":
        rope |= {key: rng.uniform(1, 9, rotary_dim // 2).tolist() for key in ("short_factor", "long_factor")}
    if variant == "ratio":
        del rope["factor"]
    if variant == "mscale":
        rope |= {"mscale": float(rng.uniform(0.5, 2)), "mscale_all_dim": float(rng.uniform(0.5, 2)), "truncate": False}
    if kind in ("yarn", "longrope"):
        rope["attention_factor"] = float(rng.uniform(0.5, 2))
    if kind == "yarn":
        rope |= {"beta_fast": float(rng.uniform(8, 40)), "beta_slow": float(rng.uniform(0.5, 4))}
    return rope
