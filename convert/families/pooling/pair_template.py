"""The template that makes one text of a query and a document: the model's own, or what models of a kind were trained
with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from inflight.convert.checkpoint.pooling import PairTemplate
from inflight.convert.families.pooling.kinds import FILES_KEY, TEMPLATES_KEY, TOKENS_KEY, scores_by_tokens
from inflight.convert.families.pooling.typed import FLAG, OBJECT, TEXT, Kind, shown, typed

_PROCESSING = "processing_kwargs"
_MESSAGE_KINDS: Mapping[str, Kind] = {"method": TEXT, "method_output_name": TEXT, "format": TEXT}
# restore_suffix is about texts that are cut, whose end is always kept here.
_CHAT_KINDS: Mapping[str, Kind] = {"add_generation_prompt": FLAG, "chat_template": TEXT, "restore_suffix": FLAG}
_ROLES = ("query", "document")
_OWN = "the model's chat template"


class Prompt(NamedTuple):
    """What models of `model_type` that score by these tokens were trained with; `model` names one of them."""

    model: str
    model_type: str
    tokens: tuple[str, ...]
    source: str


def _of(role: str) -> str:
    return f"{{{{ messages | selectattr('role', 'eq', '{role}') | map(attribute='content') | first }}}}"


def _asked(otherwise: str) -> str:
    """The instruction, or what stands there where none is given."""
    instruction = "messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first"
    return f"{{{{ {instruction} | default({otherwise!r}, true) }}}}"


_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
_JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the "
    'answer can only be "yes" or "no".'
)
_PREDICT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
_EXPERT = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
    "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 "
    "for not relevant, 1 for relevant).\nRelevance:"
)
_INSTRUCTED = (
    "{% for each in messages if each.role == 'system' and each.content %}instruction: {{ each.content }}\n{% endfor %}"
)
# Of models whose files do not have it, as their model cards or their own code have it.
PROMPTS: tuple[Prompt, ...] = (
    Prompt(
        "Qwen3-Reranker",
        "qwen3",
        ("yes", "no"),
        f"<|im_start|>system\n{_JUDGE}<|im_end|>\n<|im_start|>user\n<Instruct>: {_asked(_SEARCH)}\n"
        f"<Query>: {_of('query')}\n<Document>: {_of('document')}<|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\n\n",
    ),
    Prompt(
        "bge-reranker-v2-gemma",
        "gemma",
        ("Yes",),
        f"{{{{ bos_token }}}}A: {_of('query')}\nB: {_of('document')}\n{_asked(_PREDICT)}",
    ),
    Prompt(
        "mxbai-rerank-v2",
        "qwen2",
        ("1", "0"),
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{_INSTRUCTED}query: {_of('query')}\ndocument: {_of('document')}\n{_EXPERT}<|im_end|>\n"
        "<|im_start|>assistant\n\n",
    ),
)


def read_pair_template(config: Mapping[str, Any], problems: list[str]) -> PairTemplate | None:
    """The template of a model that scores pairs; None: the tokenizer joins two texts. Problems go to `problems`."""
    sources: Mapping[str, str] = config.get(TEMPLATES_KEY, {})
    files = config.get(FILES_KEY)
    if files is not None:
        return _of_sentence_transformers(files, sources, problems)
    if not scores_by_tokens(config):
        return None
    own = sources.get("default")
    if own is not None and _takes_pairs(own):
        return PairTemplate(source=own, origin=_OWN)
    tokens = tuple(config[TOKENS_KEY])
    known = (each for each in PROMPTS if (each.model_type, each.tokens) == (config.get("model_type"), tokens))
    found = next(known, None)
    return None if found is None else PairTemplate(source=found.source, origin=f"the prompt of {found.model}")


def _takes_pairs(source: str) -> bool:
    """Whether a chat template names the roles of a query and a document."""
    return all(re.search(rf"""["']{role}["']""", source) for role in _ROLES)


def _of_sentence_transformers(
    files: Mapping[str, Any], sources: Mapping[str, str], problems: list[str]
) -> PairTemplate | None:
    """As its Transformer module has it: pairs become messages where the model takes some."""
    file, raw = files["lengths_file"], files["lengths"]
    modalities = typed(raw, {"modality_config": OBJECT}, file, []).get("modality_config", {})
    message = typed(modalities, {"message": OBJECT}, f"modality_config of {file}", problems).get("message")
    if message is None:
        return None
    found = typed(message, _MESSAGE_KINDS, f"modality_config.message of {file}", problems)
    if found.get("format") not in (None, "auto", "flat"):
        problems.append(f"modality_config.message.format {shown(found['format'])} of {file} is not supported: flat is")
    chat = typed(_chat_settings(raw), _CHAT_KINDS, f"{_PROCESSING}.chat_template of {file}", problems)
    for key in (key for key in _chat_settings(raw) if key not in _CHAT_KINDS):
        problems.append(f"{_PROCESSING}.chat_template.{key} of {file} is not supported")
    name = chat.get("chat_template", "default")
    if name not in sources or not _takes_pairs(sources[name]):
        has = "takes no query and document" if name in sources else "is not there"
        problems.append(f"{file} has pairs made of the chat template {name!r}, which {has}")
        return None
    origin = _OWN if name == "default" else f"{_OWN} {name!r}"
    prompts = chat.get("add_generation_prompt", False)
    return PairTemplate(source=sources[name], add_generation_prompt=prompts, origin=origin)


def _chat_settings(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the Transformer module's config, `raw`, has a chat template given."""
    processing = raw.get(_PROCESSING)
    found = processing.get("chat_template") if isinstance(processing, dict) else None
    return found if isinstance(found, dict) else {}
