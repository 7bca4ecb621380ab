"""The files beside config.json that say what becomes of hidden states: those of sentence-transformers, and the
tokenizer's config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inflight.convert.families.pooling.kinds import FILES_KEY, TEMPLATES_KEY, TOKENIZER_KEY, classifies, pools
from inflight.convert.families.pooling.typed import TEXT, shown, typed
from inflight.errors import ModelError
from inflight.files.json_file import read_json, read_json_object

MODULES = "modules.json"
# Lengths, prompts, and the configs of modules in their own folders.
PATTERNS = (MODULES, "sentence_*_config.json", "config_sentence_transformers.json", "*/config.json")
PROMPTS = "config_sentence_transformers.json"
TOKENIZER = "tokenizer_config.json"
# Of these, sentence-transformers reads the first that says something.
_LENGTHS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_AGAIN = "Save the model again with sentence-transformers, or download it again."


def pooled_files(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the config of a model that pools hidden states gets beside its own keys: nothing of another model. Raises
    ModelError for what is no JSON."""
    files = _read_files(directory)
    found = {} if files is None else {FILES_KEY: files}
    if not pools({**config, **found}):
        return {}
    found[TOKENIZER_KEY] = tokenizer = _read_if_there(directory / TOKENIZER)
    if classifies({**config, **found}):
        found[TEMPLATES_KEY] = _chat_templates(directory, tokenizer)
    return found


def files_of(directory: Path) -> list[Path]:
    """The files of sentence-transformers."""
    if not (directory / MODULES).is_file():
        return []
    return sorted(path for pattern in PATTERNS for path in directory.glob(pattern) if path.is_file())


def _read_files(directory: Path) -> dict[str, Any] | None:
    """Their contents: `modules`, whose type and path are texts, the `configs` that their folders have, `lengths`,
    which are of the file `lengths_file`, and `prompts`. None where there are none."""
    if not (directory / MODULES).is_file():
        return None
    listed = _modules(directory / MODULES)
    folders = [each["path"] for each in listed]
    if outside := [name for name in folders if Path(name).name != name]:
        raise ModelError(f"{directory / MODULES} names folders that are not beside it: {', '.join(outside)}.")
    configs = {name: directory / name / "config.json" for name in folders}
    lengths = {name: _read_if_there(directory / name) for name in _LENGTHS}
    file = next((name for name, values in lengths.items() if values), _LENGTHS[0])
    return {
        "modules": listed,
        "configs": {
            path: read_json_object(file, ModelError) for path, file in configs.items() if path and file.is_file()
        },
        "lengths": lengths[file],
        "lengths_file": file,
        "prompts": _read_if_there(directory / PROMPTS),
    }


def _modules(file: Path) -> list[dict[str, Any]]:
    modules = read_json(file, ModelError)
    if not isinstance(modules, list) or not modules:
        raise ModelError(f"{file} lists no modules.", _AGAIN)
    problems: list[str] = []
    for index, each in enumerate(modules):
        if not isinstance(each, dict):
            problems.append(f"module {index} must be an object, not {shown(each)}")
            continue
        found = typed(each, {"type": TEXT, "path": TEXT}, f"module {index}", problems)
        problems += [
            f"module {index} has no {key}" for key in ("type", "path") if key not in found and each.get(key) is None
        ]
    if problems:
        raise ModelError(f"{file} cannot be followed:\n" + "\n".join(f"  {line}" for line in problems), _AGAIN)
    return modules


def _chat_templates(directory: Path, tokenizer: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates by their names, where transformers keeps them: in files, or in the tokenizer's config."""
    configured = tokenizer.get("chat_template")
    listed = configured if isinstance(configured, list) else [{"name": "default", "template": configured}]
    found = {
        str(each.get("name")): template
        for each in listed
        if isinstance(each, dict) and isinstance(template := each.get("template"), str)
    }
    files = {path.stem: path for path in sorted((directory / "additional_chat_templates").glob("*.jinja"))}
    files["default"] = directory / "chat_template.jinja"
    try:
        return found | {name: path.read_text(encoding="utf-8") for name, path in files.items() if path.is_file()}
    except (OSError, ValueError) as error:
        raise ModelError(f"A chat template of {directory} cannot be read: {error}.", _AGAIN) from error


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json_object(path, ModelError) if path.is_file() else {}
