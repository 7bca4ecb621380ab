"""How well a model predicts the answers of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from demo_model.training.batches import Batch


@dataclass(frozen=True, slots=True)
class Score:
    """token_losses: (n,) float32, cross entropy of every target in nats. turn_losses: (turns,) float32, their sum for
    each answer. exact: (turns,) bool, whether every target of the answer was the most likely token: what greedy
    decoding would have written.
    """

    token_losses: torch.Tensor
    turn_losses: torch.Tensor
    exact: torch.Tensor


def score(model: LlamaForCausalLM, batch: Batch) -> Score:
    """Score a batch; `token_losses` carries the gradient. The output layer runs only where a target is."""
    rows, positions = batch.targets.T
    hidden = model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[rows, positions - 1]).float()
    wanted = batch.tokens[rows, positions]
    losses = functional.cross_entropy(logits, wanted, reduction="none")
    turns = len(batch.topics)
    wrong = torch.zeros(turns).index_add_(0, batch.turns, (logits.argmax(-1) != wanted).float())
    sums = torch.zeros(turns).index_add_(0, batch.turns, losses.detach())
    return Score(losses, sums, wrong == 0)
