"""Muon for the matrices, AdamW for the embedding and the norms, and their learning rate over time.

Muon orthogonalizes each update, so that what is seen rarely moves the weights as much as what is seen often; the model
knows a fact after far fewer repetitions than with AdamW alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import LlamaForCausalLM

PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 40
WEIGHT_DECAY = 0.05
MAX_GRADIENT_NORM = 1.0


class Optimizer:
    """Both optimizers as one."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self._parameters = list(model.parameters())
        matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
        others = [p for name, p in model.named_parameters() if not (p.ndim == 2 and "layers" in name)]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]

    def step(self, step: int, total: int) -> None:
        """Apply the gradients of step `step` (from 0) of `total`, and clear them."""
        torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = learning_rate(step, total)
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self._parts]

    def restore(self, state: list[dict[str, Any]]) -> None:
        for part, saved in zip(self._parts, state, strict=True):
            part.load_state_dict(saved)


def learning_rate(step: int, total: int) -> float:
    """Linear warm-up, which does not depend on `total`, then half a cosine down to zero at `total`."""
    if step < WARMUP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, total - WARMUP_STEPS)
    return PEAK_LEARNING_RATE * (1 + math.cos(math.pi * done)) / 2
