"""Finds the engine that a user names. A model is converted and built once, and cached."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from inflight import __version__
from inflight.cli.engines.checkpoint_notes import checkpoint_notes
from inflight.engine_format.manifest import FORMAT_VERSION, MANIFEST_NAME
from inflight.errors import InflightError, ModelError
from inflight.extras import install_hint, needs
from inflight.files.cache import cached_path, write_record
from inflight.files.remote import as_url, fetch, has_file
from inflight.files.scratch import remove_stale, scratch_directory
from inflight.progress import progress_bar

if TYPE_CHECKING:
    from inflight.build.recipe import BuildRecipe
    from inflight.convert.options import ConvertOptions
    from inflight.convert.source.opened import SourceModel

# What is converted on the way to an engine.
_CHECKPOINT = "checkpoint"


def engine_here(name: str) -> str:
    """`name`; the address of an engine on an object store becomes the directory that it was fetched into."""
    url = as_url(name)
    return str(fetch(url, ("*",))) if url is not None and has_file(url, MANIFEST_NAME) else name


def is_engine(name: str) -> bool:
    return (Path(name).expanduser() / MANIFEST_NAME).is_file()


def resolve_engine(
    name: str, options: ConvertOptions | None = None, recipe: BuildRecipe | None = None, *, dequantize: bool = False
) -> Path:
    """The engine directory for `name`: an engine, or a model directory, hub id or address that is converted and
    built.

    What was built is kept in the user's cache under the digest of the model's files, the options and the recipe, so the
    same model is built once, wherever it lies. `dequantize`, where no options are given, is theirs. Raises what
    converting and building raise, and InflightError for `dequantize` with an engine.
    """
    name = engine_here(name)
    path = Path(name).expanduser()
    if is_engine(name):
        if dequantize:
            raise InflightError(
                f"{name} is an engine: --dequantize can only be chosen when it is built.",
                "Give the model, or convert it with --dequantize and build that checkpoint.",
            )
        return path
    if (path / "rank0.safetensors").is_file():
        raise ModelError(
            f"{name} is a checkpoint, not an engine.",
            f"Build it: inflight build-engine --checkpoint-dir {name} -o ENGINE",
        )
    # The compiler's side is imported here alone: serving an engine must not need it.
    with needs("A model that is not an engine yet is converted and built first, which", install_hint("build")):
        from inflight.build.engine import build_engine, plan_model_build, write_engine
        from inflight.build.registry import find_target, make_recipe
        from inflight.build.target import ModelTarget
        from inflight.convert.api import convert_model
        from inflight.convert.checkpoint.directory import Checkpoint
        from inflight.convert.options import ConvertOptions
        from inflight.convert.source.model import open_source
    from inflight.progress import console

    options, recipe = options or ConvertOptions(dequantize=dequantize), recipe or make_recipe()
    target = find_target(recipe.target)
    if isinstance(target, ModelTarget) and (options.dequantize or options.score_tokens):
        flag = "--dequantize" if options.dequantize else "--score-tokens"
        raise InflightError(f"{flag} has no effect: target {target.name} takes a model as it is.")
    source = open_source(name, options.revision, options.score_tokens)
    identity = target.identity(recipe)
    conversion = options.model_dump(exclude={"revision", "overwrite", "progress"})
    facts = [__version__, FORMAT_VERSION, _source_digest(source), conversion, recipe.record(), identity]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    engine = cached_path("engines", f"{source.label}-{key}")
    if is_engine(str(engine)):
        return engine
    engine.parent.mkdir(parents=True, exist_ok=True)

    def begun() -> None:
        """Said once nothing is left to refuse."""
        console.print(f"Building an engine of {name}; it is kept in {engine}")

    if isinstance(target, ModelTarget):
        build = plan_model_build(source, recipe)
        begun()
        for note in build.notes:
            console.print(note, markup=False)
        write_engine(build, engine, overwrite=True)
        return engine
    remove_stale(engine.parent, _CHECKPOINT)
    with scratch_directory(engine.parent, _CHECKPOINT) as scratch:
        checkpoint = scratch / _CHECKPOINT
        for note in convert_model(name, checkpoint, options, begun):
            console.print(note, markup=False)
        for note in checkpoint_notes(name, Checkpoint.open(checkpoint)):
            console.print(note, markup=False)
        build_engine(checkpoint, engine, recipe, overwrite=True)
    return engine


def _source_digest(source: SourceModel) -> str:
    """The digest of the model's contents. It is remembered for as long as the files look unchanged, because reading
    them takes seconds per model."""
    states = [(str(path.resolve()), *_state(path)) for path in source.files()]
    fingerprint = hashlib.sha256(json.dumps(states).encode()).hexdigest()
    record = cached_path("sources", fingerprint)
    if record.is_file():
        return record.read_text(encoding="ascii")
    total = sum(path.stat().st_size for path in source.files())
    with progress_bar("Reading the model", total) as advance:
        digest = source.sha256(advance)
    with suppress(OSError):  # a full disk, which may hold the engine already
        write_record(record, digest)
    return digest


def _state(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
