"""What sentence-transformers makes of hidden states: the modules of modules.json, and prompts.

Everything that cannot be followed is noted by name, as problems of config.json are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.convert.checkpoint.pooling import Pooling, PoolingRecord
from inflight.convert.families.pooling.dense import DENSE, dense_folders, name_problems, read_dense
from inflight.convert.families.pooling.files import MODULES, PROMPTS
from inflight.convert.families.pooling.kinds import LOGIT_SCORE
from inflight.convert.families.pooling.transformer import LOGITS, SCORES, read_transformer
from inflight.convert.families.pooling.typed import COUNT, FLAG, NAMED_TEXTS, ONE_OR_MORE, TEXT, Kind, shown, typed

_KNOWN = ("Transformer", "Pooling", DENSE, "Normalize", LOGIT_SCORE)
# Modules that say nothing without a config of their own.
_CONFIGURED = ("Pooling", DENSE, LOGIT_SCORE)
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
_SIZES = ("embedding_dimension", "word_embedding_dimension")
_POOLING_KINDS: Mapping[str, Kind] = {
    "pooling_mode": ONE_OR_MORE,
    "include_prompt": FLAG,
    **dict.fromkeys(_SIZES, COUNT),
}
_PROMPT_KINDS: Mapping[str, Kind] = {"prompts": NAMED_TEXTS, "default_prompt_name": TEXT}


class FileReader:
    """The files of sentence-transformers; what cannot be followed goes to `problems`."""

    def __init__(self, files: Mapping[str, Any], problems: list[str]) -> None:
        self._files = files
        self._problems = problems
        self._types = [module["type"] for module in files["modules"]]
        self._kinds = [name.rpartition(".")[2] for name in self._types]

    def classifier(self, record: PoolingRecord) -> PoolingRecord:
        """`record`, that of a classifier, with the most tokens of a text or a pair and with its prompts, as far as they
        say it. It is the only module, or has one behind it that reads the logits of tokens."""
        self._check_modules()
        by_tokens = self._kinds == ["Transformer", LOGIT_SCORE]
        if self._kinds != ["Transformer"] and not by_tokens:
            self._problems.append(f"the modules {', '.join(self._kinds)} are not supported in a classifier")
        prompts, default = self._prompts()
        length = read_transformer(self._files, self._problems, LOGITS if by_tokens else SCORES)
        if record.pair_template is not None:
            return record.model_copy(update={"max_length": length, "prompts": prompts, "default_prompt": default})
        if default is not None:
            self._problems.append(f"default_prompt_name of {PROMPTS} is not supported in a classifier")
        return record.model_copy(update={"max_length": length})

    def record(self, size: Any) -> PoolingRecord:
        """`size`: that of hidden states."""
        self._check_modules()
        known = [kind for kind in self._kinds if kind in _KNOWN]
        once = [kind for kind in known if kind != DENSE]
        if sorted(known, key=_KNOWN.index) != known or once not in (
            ["Transformer", "Pooling"],
            ["Transformer", "Pooling", "Normalize"],
        ):
            self._problems.append(
                f"the modules {', '.join(self._kinds)} are not supported: Transformer, Pooling, any Dense, Normalize"
            )
        prompts, default = self._prompts()
        dense = [self._files["configs"].get(path, {}) for path in dense_folders(self._files)]
        return PoolingRecord(
            task="embed",
            pooling=self._pooling(size),
            dense=read_dense(dense, self._problems),
            normalize="Normalize" in self._kinds,
            max_length=read_transformer(self._files, self._problems),
            prompts=prompts,
            default_prompt=default,
        )

    def _check_modules(self) -> None:
        """Which there are, and whether their files are."""
        for name in (name for name in self._types if not name.startswith(_PACKAGE)):
            self._problems.append(f"module {name} of {MODULES} is code of the model's own, which is not run")
        for kind in (kind for kind in self._kinds if kind not in _KNOWN):
            self._problems.append(f"module {kind} of {MODULES} is not supported (supported: {', '.join(_KNOWN)})")
        for module, kind in zip(self._files["modules"], self._kinds, strict=True):
            path, configs = module["path"], self._files["configs"]
            if kind == "Transformer" and path:
                self._problems.append(f"module {kind} of {MODULES} lies in {path!r}: put its files beside {MODULES}")
            elif kind in _CONFIGURED and path not in configs:
                where = f"{path}/config.json, which is not there" if path else "no folder"
                self._problems.append(f"module {kind} of {MODULES} has {where}: download the model again")
            elif kind == "Normalize":
                self._problems.extend(f"Normalize: {problem}" for problem in name_problems(configs.get(path, {})))

    def _prompts(self) -> tuple[dict[str, str], str | None]:
        """What is put in front of texts by its name, and the name that is meant where none is given."""
        raw = self._files["prompts"]
        found = typed(raw, _PROMPT_KINDS, PROMPTS, self._problems)
        prompts = {name: text or "" for name, text in found.get("prompts", {}).items()}
        default = found.get("default_prompt_name")
        if default is not None and default not in prompts:
            self._problems.append(f"default_prompt_name {default!r} of {PROMPTS} names no prompt")
        if raw.get("truncate_dim") is not None:
            self._problems.append(
                f"truncate_dim {shown(raw['truncate_dim'])} of {PROMPTS} is not supported: ask for so many dimensions"
            )
        return prompts, default

    def _pooling(self, size: Any) -> Pooling:
        modules = zip(self._files["modules"], self._kinds, strict=True)
        path = next((module["path"] for module, kind in modules if kind == "Pooling"), "")
        raw: Mapping[str, Any] = self._files["configs"].get(path, {})
        file = f"{path}/config.json"
        flags = [key for key in raw if key.startswith("pooling_mode_")]
        config = typed(raw, {**_POOLING_KINDS, **dict.fromkeys(flags, FLAG)}, file, self._problems)
        if config.get("include_prompt", True) is not True:
            self._problems.append("include_prompt false of the Pooling module is not supported: all tokens are pooled")
        for key in (key for key in _SIZES if config.get(key, size) != size):
            self._problems.append(f"{key} {config[key]} of {file} is not the size of hidden states, {size}")
        mode = config.get("pooling_mode")
        old = [key for key in flags if config.get(key)]
        # Where no mode is said to be on, sentence-transformers takes the mean.
        modes = [mode] if isinstance(mode, str) else mode or old or ["mean"]
        known = {**_NAMES, **_MODES}
        if len(modes) == 1 and modes[0] in known:
            return known[modes[0]]
        self._problems.append(f"the pooling {', '.join(modes)} is not supported: one of {', '.join(_NAMES)} is")
        return "mean"
