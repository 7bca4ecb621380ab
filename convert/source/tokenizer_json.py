"""Makes the tokenizer.json of a model that has none, out of tokenizer.model or of older files, with transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inflight.errors import ModelError
from inflight.extras import install_hint, needs
from inflight.files.json_file import read_json_object
from inflight.files.scratch import temporary_directory

SENTENCEPIECE_MODELS = ("tokenizer.model", "spiece.model", "spm.model")
# Loads tokenizer.json as it is, whatever the model.
_PLAIN_CLASS = "PreTrainedTokenizerFast"
_COPY_ONE = "Copy the tokenizer.json of a model with the same tokenizer beside it."
_SAMPLES = (
    "The quick brown fox jumps over the lazy dog, and then it doesn't.",
    " leading and  double   spaces, trailing ",
    "def f(x):\n    return x ** 2\t# 0123456789\n\n",
    "naïve café — déjà vu; Привет, мир! 東京タワーへ行く。 नमस्ते दुनिया \U0001f389\U0001f1eb\U0001f1f7 ﬁ Å ½",
)
_SAMPLED_PIECES = 2000
# How a template calls one text, and the second.
_TEXTS = ("$A", "$B")


def write_tokenizer_json(source: Path, target: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json to `target`, of the tokenizer in the model directory `source`.

    Text gets the ids that SentencePiece itself gives it, where the tokenizer is a SentencePiece model; the tokens
    before and after it are those of transformers. Raises ModelError when the files cannot be read or ids would differ.
    """
    from transformers import AutoTokenizer

    backend: Any
    model = next((source / name for name in SENTENCEPIECE_MODELS if (source / name).is_file()), None)
    if model is not None:
        # Before transformers, which without it names a package that has nothing to do with these files.
        with needs(f"A tokenizer without tokenizer.json ({model})", install_hint("build")):
            import sentencepiece  # noqa: F401
    try:
        auto: Any = AutoTokenizer.from_pretrained(str(source), local_files_only=True, trust_remote_code=False)
        backend = auto.backend_tokenizer
        if model is not None:
            backend = _of_sentencepiece(model, auto)
    except (ModelError, ModuleNotFoundError):
        raise
    except Exception as error:  # any of the many ways in which third-party files can be wrong
        raise ModelError(f"The tokenizer in {source} cannot be loaded: {error}", _COPY_ONE) from error
    backend.save(str(target / "tokenizer.json"))
    file = target / "tokenizer_config.json"
    config = read_json_object(file, ModelError) if file.is_file() else {}
    config = {**auto.special_tokens_map, **config, "tokenizer_class": _PLAIN_CLASS}
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _of_sentencepiece(path: Path, auto: Any) -> Any:
    """The tokenizer of a SentencePiece model; `auto` says what comes before and after a text, and which tokens there
    are beyond the model's."""
    import sentencepiece
    from transformers import PreTrainedTokenizerFast

    pieces: Any = sentencepiece.SentencePieceProcessor(model_file=str(path))
    # Alone, so that no class changes how text is cut.
    with temporary_directory("tokenizer") as alone:
        shutil.copyfile(path, alone / "tokenizer.model")
        backend: Any = PreTrainedTokenizerFast.from_pretrained(alone).backend_tokenizer
    _compare(path, pieces, backend)
    known = set(backend.get_vocab(with_added_tokens=True))
    for token_id, token in sorted(auto.added_tokens_decoder.items()):
        if token.content not in known and token_id >= pieces.get_piece_size():
            backend.add_tokens([token])
            if backend.token_to_id(token.content) != token_id:
                raise ModelError(
                    f"{path.parent} gives {token.content!r} the id {token_id}, which leaves a gap.", _COPY_ONE
                )
    _surround(backend, auto)
    return backend


def _compare(path: Path, pieces: Any, backend: Any) -> None:
    size = pieces.get_piece_size()
    step = max(1, size // _SAMPLED_PIECES)
    # A text that spells a control piece means the special token here, and nothing to SentencePiece.
    ordinary = (
        i for i in range(0, size, step) if not (pieces.is_byte(i) or pieces.is_control(i) or pieces.is_unknown(i))
    )
    spelled = (pieces.id_to_piece(i).replace("▁", " ") for i in ordinary)
    for text in (*_SAMPLES, *(f"{piece}{piece[::-1]} {piece}" for piece in spelled)):
        expected, found = pieces.encode(text), backend.encode(text, add_special_tokens=False).ids
        if found != expected:
            raise ModelError(
                f"{path}: its tokenizer.json would give {text[:60]!r} the ids {found[:12]}, and SentencePiece gives "
                f"{expected[:12]}.",
                _COPY_ONE,
            )


def _surround(backend: Any, auto: Any) -> None:
    """The special tokens that transformers puts around a text, and around and between two, with their kinds."""
    from tokenizers import processors

    single, pair = (_template(auto, texts) for texts in (("a",), ("a", "a")))
    tokens = {token for token, _ in (*single, *pair) if token not in _TEXTS}
    backend.post_processor = processors.TemplateProcessing(
        single=[f"{token}:{kind}" for token, kind in single],
        pair=[f"{token}:{kind}" for token, kind in pair],
        special_tokens=[(token, backend.token_to_id(token)) for token in sorted(tokens)],
    )


def _template(auto: Any, texts: Sequence[str]) -> list[tuple[str, int]]:
    """What becomes of so many equal texts: (token, its kind), with names of _TEXTS in place of theirs. Raises
    ModelError where they are not found in it."""
    inner, found = auto(texts[0], add_special_tokens=False)["input_ids"], auto(*texts)
    ids, names = found["input_ids"], list(_TEXTS[: len(texts)])
    kinds = found.get("token_type_ids") or [0] * len(ids)
    template: list[tuple[str, int]] = []
    place = 0
    while place < len(ids):
        is_text = bool(names) and ids[place : place + len(inner)] == inner
        template.append((names.pop(0) if is_text else auto.convert_ids_to_tokens(ids[place]), kinds[place]))
        place += len(inner) if is_text else 1
    if names or not inner:
        raise ModelError(f"The tokenizer in {auto.name_or_path} changes a text beside special tokens.", _COPY_ONE)
    return template
