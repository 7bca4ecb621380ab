"""Engine directories to serve in tests."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from msgspec.structs import replace

from inflight import __version__
from inflight.engine_format.manifest import MANIFEST_NAME, FileFacts
from inflight.engine_format.manifest_file import encode_manifest
from inflight.files import sha256_file
from inflight.runtime.executors.null.executor import null_manifest
from tests.models.tiny_tokenizers import byte_level

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_tokenizer(directory: Path, chat_template: str = CHAT_TEMPLATE) -> tokenizers.Tokenizer:
    """The files of a byte-level tokenizer with a chat template."""
    backend = byte_level()
    directory.mkdir(parents=True)
    backend.save(str(directory / "tokenizer.json"))
    special = {"chat_template": chat_template, "tokenizer_class": "PreTrainedTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps(special))
    return backend


def write_null_engine(
    directory: Path,
    *,
    end_tokens: bool = False,
    max_seq_len: int = 512,
    max_batch_size: int = 8,
    chat_template: str = CHAT_TEMPLATE,
) -> Path:
    """An engine of target `null` with a byte-level tokenizer and a chat template; any token sequence may come out.

    end_tokens: make a few ids end tokens, so that a sequence sooner or later meets one.
    """
    tokenizer = directory / "tokenizer"
    backend = write_tokenizer(tokenizer, chat_template)
    paths = [path for path in tokenizer.iterdir() if path.is_file()]
    files = {f"tokenizer/{p.name}": FileFacts(bytes=p.stat().st_size, sha256=sha256_file(p)) for p in paths}
    vocab_size = backend.get_vocab_size(with_added_tokens=True)
    manifest = null_manifest(
        vocab_size=vocab_size,
        max_seq_len=max_seq_len,
        max_batch_size=max_batch_size,
        end_token_ids=tuple(range(5, vocab_size, 20)) if end_tokens else (),
    )
    manifest = replace(manifest, inflight_version=__version__, files=files)
    (directory / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return directory
