"""What sentence-transformers makes of hidden states: modules.json and the files of its modules, or a classifier.

Everything that cannot be followed is noted by name, as problems of config.json are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inflight.convert.checkpoint.pooling import DenseRecord, Pooling, PoolingRecord
from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.dense_modules import DENSE, dense_folders, read_dense
from inflight.convert.families.family import Family
from inflight.convert.families.pooled import FILES_KEY, classifier_pooling, classifies
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
# What a classifier reads, of what the key classifier_pooling may say. "late": scores of all tokens have a mean.
_READ: Mapping[str, Pooling] = {"cls": "cls", "bos": "cls", "mean": "mean", "late": "mean"}
# What may become of scores, by the names of torch (the last of several labels alone) and of the problems that configs
# may name.
_SCORES = {"Identity": "identity", "Sigmoid": "sigmoid", "Softmax": "softmax"}
_OF_PROBLEMS = {"regression": "identity", "multi_label_classification": "sigmoid"}
# More than any classifier has.
MOST_LABELS = 1 << 16
# Where the config of a cross-encoder names what becomes of its scores.
_ACTIVATION_KEY = "sbert_ce_default_activation_function"


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


def read_pooling(values: ConfigValues, raw: Mapping[str, Any], family: Family) -> PoolingRecord | None:
    """What becomes of the hidden states of a model for which `pooled.pools` is true; problems go to `values`."""
    values.problems.extend(_code_problems(raw, family))
    if classifies(raw):
        return _classifier(values, raw, family)
    files = raw.get(FILES_KEY)
    if files is None:
        if not family.encoder:
            values.problems.append(
                f"it has no {MODULES}, which says how hidden states become a vector: save the model with "
                "sentence-transformers"
            )
        return PoolingRecord(task="embed", pooling="mean")
    record = _Files(files, values.problems).record()
    size = values.raw.get("hidden_size")
    for each in record.dense:
        if each.inputs != size:
            values.problems.append(f"Dense takes {each.inputs} numbers and gets {size}")
        size = each.outputs
    return record


def sees_all(values: ConfigValues, raw: Mapping[str, Any], family: Family, *, windows: bool) -> bool:
    """Whether the tokens of a decoder that pools see all others: where its own key says so, or is_causal is false,
    which models say whose own code has it so. `windows`: some layers have one. Problems go to `values`."""
    if family.encoder:
        return False
    key = "use_bidirectional_attention"
    if family.bidirectional != key:
        values.refuse(key, "the tokens of this family see those before them")
    causal = raw.get("is_causal")
    if causal not in (None, True, False):
        values.problems.append(f"is_causal must be true or false, not {causal!r}")
    if causal is False and windows:
        values.problems.append(
            "is_causal false is not supported beside windows, of which it does not say how they look"
        )
    return causal is False or (family.bidirectional is not None and values.flag(family.bidirectional))


def _code_problems(raw: Mapping[str, Any], family: Family) -> Iterator[str]:
    """Models that pool with code of their own, which may compute another thing than the class of their name."""
    code = raw.get("auto_map")
    classes = [name for name in code if name not in ("AutoConfig", "AutoTokenizer")] if isinstance(code, dict) else []
    if not classes or family.carries_code or family.own_code:
        return
    if family.encoder:
        yield f"auto_map names code of the model's own ({code[classes[0]]}), which is not run"
    elif raw.get("is_causal") is None:
        yield (
            f"auto_map names code of the model's own ({code[classes[0]]}), which is not run: say in config.json what "
            'it does, "is_causal": false where tokens see all others, and true where they see those before them'
        )


def _classifier(values: ConfigValues, raw: Mapping[str, Any], family: Family) -> PoolingRecord:
    names = _label_names(values, raw)
    named_pooling = classifier_pooling(raw, family)
    if named_pooling is not None and named_pooling not in family.classifier_pooling:
        known = ", ".join(family.classifier_pooling)
        values.problems.append(f"classifier_pooling {named_pooling!r} is not supported (supported: {known})")
    usual: Pooling = "cls" if family.encoder else "last"
    behind = named_pooling == "mean"
    return PoolingRecord(
        task="score" if len(names) == 1 else "classify",
        pooling=usual if named_pooling is None else _READ.get(named_pooling, usual),
        dense=_head(values, family, len(names)) if behind else (),
        labels=None if behind else len(names),
        label_names=names,
        activation=_activation(values, raw, len(names)),
    )


def _label_names(values: ConfigValues, raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of id2label, by their numbers; transformers has two where the config has no word of them."""
    listed, count = raw.get("id2label"), raw.get("num_labels")
    if isinstance(listed, dict):
        count = len(listed) if count is None else count
    count = 2 if count is None else count
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_LABELS:
        values.problems.append(f"num_labels must be a number of labels up to {MOST_LABELS}, not {count!r}")
        return ("LABEL_0",)
    found = {str(key): str(name) for key, name in listed.items()} if isinstance(listed, dict) else {}
    return tuple(found.get(str(index), f"LABEL_{index}") for index in range(count))


def _activation(values: ConfigValues, raw: Mapping[str, Any], count: int) -> Any:
    """What becomes of a classifier's numbers: as sentence-transformers has it, or as pipelines of transformers have it
    by the problem that the model was trained for."""
    block = raw.get("sentence_transformers")
    named = raw.get(_ACTIVATION_KEY) or (block.get("activation_fn") if isinstance(block, dict) else None)
    if named is None:
        usual = "sigmoid" if count == 1 else "softmax"
        return usual if count == 1 else _OF_PROBLEMS.get(str(raw.get("problem_type")), usual)
    function, known = str(named).rpartition(".")[2], [*_SCORES][: 2 if count == 1 else None]
    if function not in known:
        values.problems.append(f"the activation {named!r} of scores is not supported: {' and '.join(known)} are")
    return _SCORES.get(function, "identity")


def _head(values: ConfigValues, family: Family, labels: int) -> tuple[DenseRecord, ...]:
    """The two products of a classifier that reads a mean, which follow what no network has."""
    hidden = values.count("hidden_size")
    normed = "classifier.norm" in family.names
    epsilon = values.number(str(family.norm_epsilon), 1e-5) if normed else None
    kind: Any = family.classifier_activation
    first = DenseRecord(inputs=hidden, outputs=hidden, bias=not normed, activation=kind, norm_epsilon=epsilon)
    return first, DenseRecord(inputs=hidden, outputs=labels, bias=True, activation="identity")


class _Files:
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
        if lengths.get("do_lower_case"):
            self._problems.append(
                f"do_lower_case of {_LENGTHS} is not supported: tokenizer.json says what becomes of case"
            )
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

    def _pooling(self, kinds: list[str]) -> Pooling:
        modules = zip(self._files["modules"], kinds, strict=True)
        path = next((module.get("path") for module, kind in modules if kind == "Pooling"), None)
        config: Mapping[str, Any] = self._files["configs"].get(path, {})
        if config.get("include_prompt", True) is not True:
            self._problems.append("include_prompt false of the Pooling module is not supported: all tokens are pooled")
        mode = config.get("pooling_mode")
        old = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        modes = [mode] if isinstance(mode, str) else mode if isinstance(mode, list) else old
        known = {**_NAMES, **_MODES}
        if len(modes) == 1 and modes[0] in known:
            return known[modes[0]]
        told = ", ".join(map(str, modes)) or "none"
        self._problems.append(f"the pooling {told} is not supported: one of {', '.join(_NAMES)} is")
        return "mean"
