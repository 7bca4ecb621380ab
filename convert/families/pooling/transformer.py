"""The Transformer module of sentence-transformers: how long texts may be, and which of its keys change numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.convert.families.pooling.typed import COUNT, FLAG, OBJECT, TEXT, Kind, shown, typed

_KINDS: Mapping[str, Kind] = {
    "max_seq_length": COUNT,
    "do_lower_case": FLAG,
    "transformer_task": TEXT,
    "module_output_name": TEXT,
    "processing_kwargs": OBJECT,
    "modality_config": OBJECT,
}
# What else changes numbers: what its keys may say, and why nothing else.
_ALWAYS: Mapping[str, tuple[Any, str]] = {
    "do_lower_case": (False, "tokenizer.json says what becomes of case"),
    "processing_kwargs": ({}, "texts are tokenized as tokenizer.json has it"),
    "query_length": (None, "all texts have one length"),
    "document_length": (None, "all texts have one length"),
    "query_expansion": (None, "texts end where they end"),
}
_EMBEDS = ("hidden states are read", "feature-extraction", "token_embeddings", "last_hidden_state")
_CLASSIFIES = ("scores are read", "sequence-classification", "scores", "logits")


def read_transformer(files: Mapping[str, Any], problems: list[str], *, classifies: bool = False) -> int | None:
    """The most tokens of a text, where its file has it; problems go there."""
    file, raw = files["lengths_file"], files["lengths"]
    found = typed(raw, _KINDS, file, problems)
    why, task, output, states = _CLASSIFIES if classifies else _EMBEDS
    known = {"transformer_task": (task, why), "module_output_name": (output, why), **_ALWAYS}
    values = {**{key: raw.get(key) for key in known if key not in _KINDS}, **found}
    for key, (usual, reason) in known.items():
        if values.get(key) not in (None, False, {}, usual):
            problems.append(f"{key} {shown(values[key])} of {file} is not supported: {reason}")
    text = typed(found.get("modality_config", {}), {"text": OBJECT}, f"modality_config of {file}", problems).get("text")
    if text and (text.get("method_output_name", states) != states or text.get("method", "forward") != "forward"):
        problems.append(f"modality_config.text {shown(text)} of {file} is not supported: {states} is")
    length = found.get("max_seq_length")
    return None if length is None else int(length)
