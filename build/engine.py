"""build_engine: from a checkpoint to an engine directory, complete or absent."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from msgspec import UNSET

import inflight
from inflight.accuracy.record import ACCURACY_NAME, FoundRecord, encode_record
from inflight.accuracy.requirement import Requirement, check_requirements
from inflight.build.dense import write_dense
from inflight.build.facts import generation_facts, model_facts, pooling_facts, source_facts, work_plan
from inflight.build.network.network import build_network
from inflight.build.recipe import BuildRecipe
from inflight.build.registry import check_capabilities, find_target, make_recipe
from inflight.build.target import BuildFacts, EngineSource, ModelTarget, Target, TargetBuild
from inflight.build.vocabulary import index_vocabulary
from inflight.convert.checkpoint.directory import TOKENIZER_DIRECTORY, Checkpoint, rank_file_name
from inflight.convert.checkpoint.support import doubts_about
from inflight.convert.quantization.scale_values import check_scales
from inflight.convert.source.model import open_source
from inflight.convert.source.opened import SourceModel
from inflight.engine_format.manifest import MANIFEST_NAME, EngineManifest, FileFacts, Limits, ModelFacts, WorkPlan
from inflight.engine_format.manifest_file import encode_manifest
from inflight.errors import BuildError, InflightError
from inflight.extras import needs
from inflight.files import atomic_directory, sha256_file
from inflight.files.remote import local_directory
from inflight.progress import progress_bar

_GRAPH_PACKAGES = ("onnx", "onnx-ir")


@dataclass(frozen=True)
class EnginePlan:
    """The plan of a build: the facts of its manifest that can be known without reading a weight."""

    model: ModelFacts
    limits: Limits
    target: BuildFacts
    work: WorkPlan


@dataclass(frozen=True)
class PlannedBuild:
    """A build that needs but be written. `name` is that of its source in messages; `notes`: what a user should know of
    it, in sentences; `tools`: versions of what made the network, where there is one.
    """

    name: str
    source: EngineSource
    plan: EnginePlan
    target: TargetBuild
    notes: Sequence[str] = ()
    tools: Sequence[str] = ()

    @property
    def accuracy(self) -> FoundRecord:
        """The source's record, which the engine gets."""
        return self.source.accuracy

    def require(self, requirements: Sequence[Requirement]) -> None:
        """Raises BuildError where the checkpoint's accuracy record is missing or worse, or there can be none."""
        if requirements and self.source.pooling is not UNSET:
            raise BuildError(
                f"{self.name} is of a model for embeddings or reranking: without logits, no figure is known.",
                "Leave --require out; compare vectors or scores with those of the model yourself.",
            )
        try:
            check_requirements(requirements, self.accuracy, self.name)
        except InflightError as error:
            raise BuildError(error.message, error.hint) from error


def plan_engine(checkpoint_dir: Path, recipe: BuildRecipe) -> EnginePlan:
    """The plan of a build; writes nothing. Raises CheckpointError, BuildError."""
    return plan_build(checkpoint_dir, recipe).plan


def build_engine(
    checkpoint_dir: Path, output: Path, recipe: BuildRecipe | None = None, *, overwrite: bool = False
) -> EngineManifest:
    """Build the engine of a checkpoint into the directory `output` and return its manifest; without a recipe, for the
    CPU of this machine.

    The same checkpoint, recipe and version give the same bytes, wherever `output` is. Raises CheckpointError,
    BuildError, and InflightError when `output` exists and `overwrite` is false; nothing is left behind then.
    """
    return write_engine(plan_build(checkpoint_dir, recipe or make_recipe()), output, overwrite=overwrite)


def write_engine(build: PlannedBuild, output: Path, *, overwrite: bool = False) -> EngineManifest:
    """As build_engine, from a plan."""
    with atomic_directory(output, overwrite=overwrite, marker=MANIFEST_NAME) as scratch:
        _check_disk(scratch, build.plan.target.memory.weights_bytes)
        with progress_bar("Packing weights", build.plan.target.memory.weights_bytes) as advance:
            build.target.write(scratch, advance)
        build.source.write_tokenizer(scratch / TOKENIZER_DIRECTORY)
        build.source.write_pooling(scratch)
        if (scratch / TOKENIZER_DIRECTORY).is_dir():
            index_vocabulary(scratch / TOKENIZER_DIRECTORY)
        manifest = manifest_of(build, _file_facts(scratch))
        (scratch / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
        # Beside the manifest and not among its files: measuring the engine itself puts another in its place.
        if build.accuracy.record is not None:
            (scratch / ACCURACY_NAME).write_bytes(encode_record(build.accuracy.record))
    return manifest


def plan_build(checkpoint_dir: Path, recipe: BuildRecipe) -> PlannedBuild:
    """Everything of a build but its files. For a ModelTarget `checkpoint_dir` is the directory or the hub id of a
    model. Raises CheckpointError, ModelError, BuildError.
    """
    target = find_target(recipe.target)
    if isinstance(target, ModelTarget):
        if (checkpoint_dir / rank_file_name(0)).is_file():
            raise BuildError(
                f"{checkpoint_dir} is a checkpoint, and target {target.name} takes the model itself.",
                "Give the directory or the hub id of the model that the checkpoint was converted from.",
            )
        return plan_model_build(open_source(str(checkpoint_dir), None), recipe)
    assert isinstance(target, Target)
    checkpoint = Checkpoint.open(local_directory(checkpoint_dir))
    config = checkpoint.config
    resolved = recipe.resolve(config)
    algorithms = config.module_quantization.algorithms
    check_capabilities(target, resolved, config.dtype, algorithms, config.pooling is not None)
    check_scales(checkpoint)
    network = build_network(checkpoint, resolved.limits.max_seq_len)
    with needs(f"Target {target.name}", target.requires):
        build = target.plan(network, checkpoint, resolved)
    source = EngineSource(
        model=model_facts(checkpoint),
        work=work_plan(checkpoint, build.facts),
        generation=generation_facts(checkpoint),
        pooling=pooling_facts(checkpoint),
        source=lambda: source_facts(checkpoint),
        accuracy=checkpoint.accuracy(build.facts.kv_cache.dtype),
        write_tokenizer=lambda folder: _copy_tokenizer(checkpoint, folder),
        write_pooling=lambda folder: write_dense(checkpoint, folder),
    )
    name, doubts = str(checkpoint.directory), doubts_about(config)
    return PlannedBuild(name, source, _plan(source, build), build, doubts, _GRAPH_PACKAGES)


def plan_model_build(model: SourceModel, recipe: BuildRecipe) -> PlannedBuild:
    """The same for a model that is taken as it is. Raises BuildError."""
    target = find_target(recipe.target)
    assert isinstance(target, ModelTarget)
    with needs(f"Target {target.name}", target.requires):
        shape = target.shape_of(model, recipe)
        resolved = recipe.resolve_for(shape.positions, shape.dtype)
        check_capabilities(target, resolved, shape.dtype, ())
        build = target.plan_model(model, shape, resolved)
    return PlannedBuild(str(model.location), build.source, _plan(build.source, build), build, build.notes)


def _plan(source: EngineSource, build: TargetBuild) -> EnginePlan:
    return EnginePlan(model=source.model, limits=build.facts.recipe.limits, target=build.facts, work=source.work)


def manifest_of(build: PlannedBuild, files: dict[str, FileFacts]) -> EngineManifest:
    """Of an engine with these files, which are verified when it is loaded."""
    facts = build.plan.target
    return EngineManifest(
        inflight_version=inflight.__version__,
        target=facts.recipe.target,
        target_abi=facts.own.interface,
        target_facts=facts.own.record(),
        model=build.source.model,
        limits=build.plan.limits,
        kv_cache=facts.kv_cache,
        precision=facts.precision,
        memory=facts.memory,
        work=build.source.work,
        generation=build.source.generation,
        pooling=build.source.pooling,
        listing=facts.listing,
        source=build.source.source(),
        recipe=facts.recipe.record(),
        tools={**facts.tools, **{name: version(name) for name in build.tools}},
        files=files,
    )


def _check_disk(directory: Path, nbytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < nbytes:
        raise BuildError(
            f"The engine takes {nbytes:,} bytes and {directory.parent} has {free:,} free.",
            "Free some space or choose another --output-dir.",
        )


def _copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    if checkpoint.tokenizer_directory is not None:
        shutil.copytree(checkpoint.tokenizer_directory, folder)


def _file_facts(directory: Path) -> dict[str, FileFacts]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    with progress_bar("Digesting files", sum(path.stat().st_size for path in paths)) as advance:
        return {
            path.relative_to(directory).as_posix(): FileFacts(
                bytes=path.stat().st_size, sha256=sha256_file(path, advance)
            )
            for path in paths
        }
