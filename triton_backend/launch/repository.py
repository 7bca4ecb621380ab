"""Writing a Triton model repository from an engine directory, with every value filled in."""

from __future__ import annotations

import shutil
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import inflight.model_repo
from inflight.engine_format.manifest import EngineManifest, PoolingFacts
from inflight.errors import InflightError
from inflight.files import atomic_directory
from inflight.runtime.kv_cache.budget import blocks_per_sequence
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.triton_backend.launch.sampling_inputs import BLOCKS
from inflight.triton_backend.launch.template_variables import VARIABLES, WrongParameter, check_overrides
from inflight.triton_backend.launch.unary_models import UNARY_MODELS, unary_config

MODELS = ("preprocessing", "tensorrt_llm", "postprocessing", "ensemble", "tensorrt_llm_bls")
# Of an engine that embeds or scores: it needs no other.
POOLING = "pooling"
CONFIG_NAME = "config.pbtxt"
TEMPLATES = Path(inflight.model_repo.__file__).parent


@dataclass(frozen=True, slots=True)
class RepositoryOptions:
    """`overrides`: template variables that replace what the engine's manifest says (see template_variables.py).

    `overwrite` replaces a directory that is already there.
    """

    overrides: Mapping[str, str] = field(default_factory=dict)
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class WrittenRepository:
    """Where it is, and what the user should know about the overrides."""

    path: Path
    notes: tuple[str, ...]


def write_repository(
    engine_dir: Path,
    out_dir: Path,
    options: RepositoryOptions = RepositoryOptions(),
) -> WrittenRepository:
    """Write the five models to `out_dir`, and where they are decoupled those for unary clients; or the one of an engine
    that embeds or scores. It appears whole or not at all.

    Raises EngineError when `engine_dir` is no engine, InflightError for an override that is unknown or impossible or
    when `out_dir` exists and `options.overwrite` is false.
    """
    manifest = read_engine_directory(engine_dir).manifest
    notes = check_overrides(options.overrides)
    if small := too_small_cache(manifest, options.overrides):
        raise InflightError(f'"{small.key}:{small.value}" is not possible.', f"{small.key} takes {small.expected}.")
    values = _values(engine_dir, manifest, options.overrides)
    generates = not isinstance(manifest.pooling, PoolingFacts)
    models = MODELS if generates else (POOLING,)
    marker = f"{models[0]}/{CONFIG_NAME}"
    with atomic_directory(out_dir, overwrite=options.overwrite, marker=marker) as scratch:
        for model in models:
            text = (TEMPLATES / model / CONFIG_NAME).read_text(encoding="utf-8")
            # `string.Template` is what fill_template uses, so users' own templates and ours are interchangeable.
            _write_model(scratch / model, string.Template(text).substitute(values), model)
        if generates and values["decoupled_mode"] == "true":
            for model, decoupled in UNARY_MODELS.items():
                config = unary_config(model, (scratch / decoupled / CONFIG_NAME).read_text(encoding="utf-8"))
                _write_model(scratch / model, config, model if (TEMPLATES / model).is_dir() else decoupled)
    return WrittenRepository(out_dir, tuple(notes))


def too_small_cache(manifest: EngineManifest, settings: Mapping[str, str]) -> WrongParameter | None:
    """A limit of the KV cache that leaves no room for one sequence, whatever memory the machine has."""
    cache, needed = manifest.kv_cache, blocks_per_sequence(manifest)
    for key, least in (
        ("max_tokens_in_paged_kv_cache", (needed - 1) * cache.tokens_per_block + 1),
        ("kv_cache_bytes", needed * cache.bytes_per_block),
    ):
        value = settings.get(key, "")
        if value.isdigit() and int(value) < least:
            reason = f"one sequence of max_seq_len {manifest.limits.max_seq_len} needs them"
            return WrongParameter(key, value, f"at least {least}: {reason}")
    return None


def _values(engine_dir: Path, manifest: EngineManifest, overrides: Mapping[str, str]) -> dict[str, str]:
    engine = str(engine_dir.resolve())
    known = {
        "engine_dir": engine,
        "tokenizer_dir": str(Path(engine) / "tokenizer"),
        "triton_max_batch_size": str(manifest.limits.max_batch_size),
    }
    values = {name: variable.default for name, variable in VARIABLES.items()} | known
    values |= {key: value for key, value in overrides.items() if value}
    values |= {"triton_backend": "python", "decoupled_mode": values["decoupled_mode"].lower()}
    return {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in values.items()} | BLOCKS


def _write_model(target: Path, config: str, code_of: str) -> None:
    """`code_of`: the template whose model.py it has, if it has one."""
    (target / "1").mkdir(parents=True)
    (target / CONFIG_NAME).write_text(config, encoding="utf-8")
    code = TEMPLATES / code_of / "1" / "model.py"
    if code.is_file():
        shutil.copyfile(code, target / "1" / "model.py")
