"""Pooling as sentence-transformers defines it, in torch: over a padded batch, with a mask of what is no padding."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

Array = npt.NDArray[np.float64]


def widened(model: PreTrainedModel) -> PreTrainedModel:
    """A copy in float64."""
    return copy.deepcopy(model).to(torch.float64)


def embed(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], pooling: str, normalize: bool, dense: Sequence[Any] = ()
) -> Array:
    """float64 [texts, hidden], or as wide as the last of `dense`: (weight, bias, class of torch.nn) each."""
    if _alone(model, texts):
        return np.concatenate([embed(model, [text], pooling, normalize, dense) for text in texts])
    batch, mask = _padded(model, texts)
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    vectors = _pooled(states.to(torch.float64), mask, pooling)
    for weight, bias, activation in dense:
        vectors = torch.nn.functional.linear(vectors, weight.double(), None if bias is None else bias.double())
        vectors = getattr(torch.nn, activation)()(vectors)
    if normalize:
        vectors = torch.nn.functional.normalize(vectors, p=2, dim=1)
    return np.asarray(vectors)


def score(model: PreTrainedModel, texts: Sequence[Sequence[int]], types: Sequence[Sequence[int]]) -> Array:
    """Raw scores, float64 [texts]; `types` empty: the model tells no kinds of tokens apart."""
    return class_scores(model, texts, types)[:, 0]


def class_scores(model: PreTrainedModel, texts: Sequence[Sequence[int]], types: Sequence[Sequence[int]]) -> Array:
    """Raw scores of all labels, float64 [texts, labels]."""
    if _alone(model, texts):
        assert not any(types), "models with windows tell no kinds of tokens apart"
        return np.concatenate([class_scores(model, [text], []) for text in texts])
    batch, _ = _padded(model, texts)
    if any(types):
        longest = batch["input_ids"].shape[1]
        batch["token_type_ids"] = torch.tensor([[*each, *[0] * (longest - len(each))] for each in types])
    with torch.no_grad():
        return np.asarray(model(**batch).logits.to(torch.float64))


def _alone(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> bool:
    """Padding behind every window is NaN in transformers, and so are then the rows that it is hidden from."""
    windows = (getattr(model.config, key, None) for key in ("local_attention", "sliding_window"))
    return len(texts) > 1 and any(window is not None for window in windows)


def _padded(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> tuple[dict[str, Any], torch.Tensor]:
    longest, pad = max(map(len, texts)), model.config.pad_token_id
    ids = torch.tensor([[*text, *[pad] * (longest - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    if getattr(model.config, "is_causal", None) is not False:
        return {"input_ids": ids, "attention_mask": mask}, mask
    # What models with code of their own do: transformers takes a mask of rows and keys as it is.
    seen = torch.zeros(len(texts), 1, longest, longest, dtype=model.dtype)
    seen.masked_fill_(mask[:, None, None, :] == 0, torch.finfo(model.dtype).min)
    return {"input_ids": ids, "attention_mask": seen}, mask


def _pooled(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """sentence_transformers.models.Pooling."""
    wide = mask[:, :, None].to(states.dtype)
    if pooling == "cls":
        return states[:, 0]
    if pooling == "max":
        return states.masked_fill(wide == 0, -1e9).max(dim=1).values
    if pooling == "lasttoken":
        return states[torch.arange(len(states)), mask.sum(dim=1) - 1]
    if pooling == "weightedmean":
        wide = wide * torch.arange(1, states.shape[1] + 1).to(states.dtype)[None, :, None]
    total, count = (states * wide).sum(dim=1), wide.sum(dim=1).clamp(min=1e-9)
    return total / (count.sqrt() if pooling == "mean_sqrt_len_tokens" else count)
