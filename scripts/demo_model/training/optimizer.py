"""Muon for the matrices, AdamW for the embedding and the norms, and their learning rate over time.

Muon orthogonalizes each update, so that what is seen rarely moves the weights as much as what is seen often; the model
knows a fact after far fewer repetitions than with AdamW alone.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from transformers import LlamaForCausalLM

WARMUP_STEPS = 40
WEIGHT_DECAY = 0.05
MAX_GRADIENT_NORM = 1.0


class Peaks(NamedTuple):
    """The highest learning rates: of the matrices of attention, of those of the MLPs, of embedding and norms. 0: they
    stay as they are."""

    attention: float
    mlp: float
    others: float


FIRST_STAGE = Peaks(3e-3, 3e-3, 3e-3)
# Half of the second stage's conversations are of the first stage's kind, so that what is known stays so.
SECOND_STAGE = Peaks(2e-3, 2e-3, 2e-3)


class Optimizer:
    """All optimizers as one."""

    def __init__(self, model: LlamaForCausalLM, peaks: Peaks = FIRST_STAGE) -> None:
        named = [(name, p, p.ndim == 2 and "layers" in name) for name, p in model.named_parameters()]
        attention = [p for name, p, is_matrix in named if is_matrix and "self_attn" in name]
        mlp = [p for name, p, is_matrix in named if is_matrix and "self_attn" not in name]
        others = [p for _, p, is_matrix in named if not is_matrix]
        if not peaks.mlp:
            for parameter in mlp:
                parameter.requires_grad_(False)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        parts = [
            (peaks.attention, _muon(attention)),
            (peaks.mlp, _muon(mlp)),
            (peaks.others, torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0, fused=True)),
        ]
        self._parts: list[tuple[float, torch.optim.Optimizer]] = [part for part in parts if part[0]]

    def step(self, step: int, total: int) -> None:
        """Apply the gradients of step `step` (from 0) of `total`, and clear them."""
        torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
        for peak, part in self._parts:
            for group in part.param_groups:
                group["lr"] = peak * learning_rate(step, total)
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        return [part.state_dict() for _, part in self._parts]

    def restore(self, state: list[dict[str, Any]]) -> None:
        for (_, part), saved in zip(self._parts, state, strict=True):
            part.load_state_dict(saved)


def _muon(matrices: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")


def learning_rate(step: int, total: int) -> float:
    """As a share of its peak: linear warm-up, which does not depend on `total`, then half a cosine down to zero at
    `total`."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, total - WARMUP_STEPS)
    return (1 + math.cos(math.pi * done)) / 2
