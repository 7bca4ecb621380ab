"""Perplexity of answers: how surprised the model is by a text, over its tokens and the end token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from demo_model.chat import Turn
from demo_model.training.batches import collate, encode_conversation
from demo_model.training.scoring import score

ROWS = 64


def perplexity(model: LlamaForCausalLM, tokenizer: Tokenizer, turns: Sequence[Turn]) -> float:
    """exp of the mean cross entropy per token of the answers, each in a conversation of its own."""
    conversations = [encode_conversation(tokenizer, [turn], [0]) for turn in turns]
    total, count = 0.0, 0
    for start in range(0, len(conversations), ROWS):
        with torch.no_grad():
            losses = score(model, collate(conversations[start : start + ROWS])).token_losses
        total += losses.double().sum().item()
        count += len(losses)
    return math.exp(total / count)
