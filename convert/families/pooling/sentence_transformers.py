"""What sentence-transformers makes of hidden states: modules.json and the files of its modules.

Everything that cannot be followed is noted by name, as problems of config.json are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inflight.convert.checkpoint.pooling import Pooling, PoolingRecord
from inflight.convert.families.pooling.dense import DENSE, dense_folders, name_problems, read_dense
from inflight.errors import ModelError
from inflight.files.json_file import read_json, read_json_object

MODULES = "modules.json"
# Lengths, prompts, and the configs of modules in their own folders.
PATTERNS = (MODULES, "sentence_*_config.json", "config_sentence_transformers.json", "*/config.json")
_LENGTHS = "sentence_bert_config.json"
_PROMPTS = "config_sentence_transformers.json"
_KNOWN = ("Transformer", "Pooling", DENSE, "Normalize")
# Keys of a Pooling module, as files before its `pooling_mode` have them.
_MODES: Mapping[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
}
_NAMES: Mapping[str, Pooling] = {
    "cls": "cls",
    "mean": "mean",
    "max": "max",
    "lasttoken": "last",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
}
# Modules of others have code that would have to be run.
_PACKAGE = "sentence_transformers."
# Of the Transformer module: what its keys may say, and why nothing else.
_TRANSFORMER: Mapping[str, tuple[Any, str]] = {
    "do_lower_case": (False, "tokenizer.json says what becomes of case"),
    "transformer_task": ("feature-extraction", "hidden states are read"),
    "module_output_name": ("token_embeddings", "hidden states are read"),
    "processing_kwargs": ({}, "texts are tokenized as tokenizer.json has it"),
    "query_length": (None, "all texts have one length"),
    "document_length": (None, "all texts have one length"),
    "query_expansion": (None, "texts end where they end"),
}
_STATES = "last_hidden_state"


def read_files(directory: Path) -> dict[str, Any] | None:
    """The contents of sentence-transformers' files beside config.json; None where there are none. Raises ModelError
    for what is no JSON."""
    if not (directory / MODULES).is_file():
        return None
    modules = read_json(directory / MODULES, ModelError)
    listed = [each for each in modules if isinstance(each, dict)] if isinstance(modules, list) else []
    if not listed:
        raise ModelError(f"{directory / MODULES} lists no modules.", "Download the model again.")
    folders = [str(each.get("path") or "") for each in listed]
    if outside := [name for name in folders if Path(name).name != name]:
        raise ModelError(f"{directory / MODULES} names folders that are not beside it: {', '.join(outside)}.")
    configs = {name: directory / name / "config.json" for name in folders}
    return {
        "modules": listed,
        "configs": {
            path: read_json_object(file, ModelError) for path, file in configs.items() if path and file.is_file()
        },
        "lengths": _read_if_there(directory / _LENGTHS),
        "prompts": _read_if_there(directory / _PROMPTS),
    }


def files_of(directory: Path) -> list[Path]:
    """Those files."""
    if not (directory / MODULES).is_file():
        return []
    return sorted(path for pattern in PATTERNS for path in directory.glob(pattern) if path.is_file())


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json_object(path, ModelError) if path.is_file() else {}


class FileReader:
    """The files of sentence-transformers; what cannot be followed goes to `problems`."""

    def __init__(self, files: Mapping[str, Any], problems: list[str]) -> None:
        self._files = files
        self._problems = problems

    def record(self) -> PoolingRecord:
        types = [str(module.get("type", "")) for module in self._files["modules"]]
        kinds = [name.rpartition(".")[2] for name in types]
        for name in (name for name in types if not name.startswith(_PACKAGE)):
            self._problems.append(f"module {name} of {MODULES} is code of the model's own, which is not run")
        for kind in (kind for kind in kinds if kind not in _KNOWN):
            self._problems.append(f"module {kind} of {MODULES} is not supported (supported: {', '.join(_KNOWN)})")
        known = [kind for kind in kinds if kind in _KNOWN]
        once = [kind for kind in known if kind != DENSE]
        if sorted(known, key=_KNOWN.index) != known or once not in (
            ["Transformer", "Pooling"],
            [*_KNOWN[:2], _KNOWN[3]],
        ):
            self._problems.append(
                f"the modules {', '.join(kinds)} are not supported: Transformer, Pooling, any Dense, Normalize"
            )
        lengths, prompts = self._files["lengths"], self._files["prompts"]
        self._check(lengths, prompts)
        length = lengths.get("max_seq_length")
        listed = prompts.get("prompts") or {}
        named = {str(name): text for name, text in listed.items() if isinstance(text, str)}
        default = prompts.get("default_prompt_name")
        if default is not None and default not in named:
            self._problems.append(f"default_prompt_name {default!r} of {_PROMPTS} names no prompt")
        return PoolingRecord(
            task="embed",
            pooling=self._pooling(kinds),
            dense=read_dense(
                [self._files["configs"].get(path, {}) for path in dense_folders(self._files)], self._problems
            ),
            normalize="Normalize" in kinds,
            max_length=length if isinstance(length, int) and length > 0 else None,
            prompts=named,
            default_prompt=default if isinstance(default, str) else None,
        )

    def _check(self, lengths: Mapping[str, Any], prompts: Mapping[str, Any]) -> None:
        """What else changes vectors."""
        for key, (known, why) in _TRANSFORMER.items():
            if lengths.get(key) not in (None, False, {}, known):
                self._problems.append(f"{key} {lengths[key]!r} of {_LENGTHS} is not supported: {why}")
        text = (lengths.get("modality_config") or {}).get("text") or {}
        if text.get("method_output_name", _STATES) != _STATES or text.get("method", "forward") != "forward":
            self._problems.append(f"modality_config.text {text!r} of {_LENGTHS} is not supported: {_STATES} is")
        if prompts.get("truncate_dim") is not None:
            self._problems.append(
                f"truncate_dim {prompts['truncate_dim']!r} of {_PROMPTS} is not supported: ask for so many dimensions"
            )
        for module in self._files["modules"]:
            if str(module.get("type", "")).endswith(".Normalize"):
                config = self._files["configs"].get(module.get("path"), {})
                self._problems.extend(f"Normalize: {problem}" for problem in name_problems(config))

    def _pooling(self, kinds: list[str]) -> Pooling:
        modules = zip(self._files["modules"], kinds, strict=True)
        path = next((module.get("path") for module, kind in modules if kind == "Pooling"), None)
        config: Mapping[str, Any] = self._files["configs"].get(path, {})
        if config.get("include_prompt", True) is not True:
            self._problems.append("include_prompt false of the Pooling module is not supported: all tokens are pooled")
        mode = config.get("pooling_mode")
        old = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        # Where no mode is said to be on, sentence-transformers takes the mean.
        modes = [mode] if isinstance(mode, str) else mode if isinstance(mode, list) else old or ["mean"]
        known = {**_NAMES, **_MODES}
        if len(modes) == 1 and modes[0] in known:
            return known[modes[0]]
        told = ", ".join(map(str, modes))
        self._problems.append(f"the pooling {told} is not supported: one of {', '.join(_NAMES)} is")
        return "mean"
