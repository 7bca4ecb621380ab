"""An engine directory of the null target with a tokenizer: all of the runtime, and no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from inflight import __version__
from inflight.engine_format.manifest import MANIFEST_NAME, GenerationFacts
from inflight.engine_format.manifest_file import encode_manifest
from inflight.runtime.executors.null.executor import null_manifest
from tests.models.tiny_tokenizers import KINDS

TEMPLATE = """{{ bos_token }}{% for message in messages %}
{%- if message.role not in ['system', 'user', 'assistant'] %}
    {{- raise_exception('no such role: ' + message.role) }}
{%- endif %}
{{- message.role + ': ' + message.content + '\n' }}{% endfor %}
{%- if add_generation_prompt %}assistant:{% endif %}"""


def write_null_engine(
    directory: Path,
    kind: str = "byte_level",
    sampling_defaults: dict[str, float | int] | None = None,
    chat_template: str | None = TEMPLATE,
    *,
    end_tokens: bool = True,
    **limits: Any,
) -> Path:
    """Write the engine; its vocabulary is the tokenizer's, with `end_tokens` `</s>` ends its answers."""
    backend = KINDS[kind]()
    end = backend.token_to_id("</s>")
    assert end is not None
    facts: dict[str, Any] = {
        "inflight_version": __version__,
        "generation": GenerationFacts(
            end_token_ids=(end,) if end_tokens else (), sampling_defaults=sampling_defaults or {}
        ),
    }
    manifest = replace(null_manifest(vocab_size=backend.get_vocab_size(), **limits), **facts)
    files = directory / "tokenizer"
    files.mkdir(parents=True)
    (directory / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    backend.save(str(files / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    if chat_template is not None:
        config["chat_template"] = chat_template
    (files / "tokenizer_config.json").write_text(json.dumps(config))
    return directory
