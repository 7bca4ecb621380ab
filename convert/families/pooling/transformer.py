"""The Transformer module of sentence-transformers: how long texts may be, and which of its keys change numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

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
    "query_length": (None, "all texts have one length"),
    "document_length": (None, "all texts have one length"),
    "query_expansion": (None, "texts end where they end"),
}


class Reads(NamedTuple):
    """What is read of a model, in words, and what the keys say then: the task, its output here and in the model."""

    why: str
    task: str
    output: str
    states: str


STATES = Reads("hidden states are read", "feature-extraction", "token_embeddings", "last_hidden_state")
SCORES = Reads("scores are read", "sequence-classification", "scores", "logits")
LOGITS = Reads("logits of tokens are read", "text-generation", "causal_logits", "logits")


def read_transformer(files: Mapping[str, Any], problems: list[str], reads: Reads = STATES) -> int | None:
    """The most tokens of a text, where its file has it; problems go there."""
    file, raw = files["lengths_file"], files["lengths"]
    found = typed(raw, _KINDS, file, problems)
    why, task, output, states = reads
    known = {"transformer_task": (task, why), "module_output_name": (output, why), **_ALWAYS}
    values = {**{key: raw.get(key) for key in known if key not in _KINDS}, **found}
    for key, (usual, reason) in known.items():
        if values.get(key) not in (None, False, {}, usual):
            problems.append(f"{key} {shown(values[key])} of {file} is not supported: {reason}")
    processing = found.get("processing_kwargs", {})
    if any(value for key, value in processing.items() if key != "chat_template" or reads is STATES):
        why = "texts are tokenized as tokenizer.json has it"
        problems.append(f"processing_kwargs {shown(processing)} of {file} is not supported: {why}")
    modalities = found.get("modality_config", {})
    for name in ("text", "message"):
        way = typed(modalities, {name: OBJECT}, f"modality_config of {file}", problems).get(name)
        if way and (way.get("method_output_name", states) != states or way.get("method", "forward") != "forward"):
            problems.append(f"modality_config.{name} {shown(way)} of {file} is not supported: {states} is")
    if reads is STATES and modalities.get("message") is not None:
        problems.append(f"modality_config.message of {file} is not supported: texts are no messages of a chat template")
    length = found.get("max_seq_length")
    return None if length is None else int(length)
