"""build_engine: from a checkpoint to an engine directory, complete or absent."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import inflight
from inflight.accuracy.record import ACCURACY_NAME, FoundRecord, encode_record
from inflight.accuracy.requirement import Requirement, check_requirements
from inflight.build.facts import generation_facts, model_facts, pooling_facts, source_facts, work_plan
from inflight.build.network.network import build_network
from inflight.build.recipe import BuildRecipe
from inflight.build.registry import check_capabilities, find_target, make_recipe
from inflight.build.target import BuildFacts, TargetBuild
from inflight.build.vocabulary import index_vocabulary
from inflight.convert.checkpoint.directory import TOKENIZER_DIRECTORY, Checkpoint
from inflight.convert.quantization.scale_values import check_scales
from inflight.engine_format.manifest import MANIFEST_NAME, EngineManifest, FileFacts, Limits, ModelFacts, WorkPlan
from inflight.engine_format.manifest_file import encode_manifest
from inflight.errors import BuildError, InflightError
from inflight.extras import needs
from inflight.files import atomic_directory, sha256_file
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
    """A build that needs but be written. `accuracy`: the checkpoint's record, which the engine gets."""

    checkpoint: Checkpoint
    plan: EnginePlan
    target: TargetBuild
    accuracy: FoundRecord

    def require(self, requirements: Sequence[Requirement]) -> None:
        """Raises BuildError where the checkpoint's accuracy record is missing or worse."""
        try:
            check_requirements(requirements, self.accuracy, str(self.checkpoint.directory))
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
        _copy_tokenizer(build.checkpoint, scratch)
        manifest = _manifest(build, _file_facts(scratch))
        (scratch / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
        # Beside the manifest and not among its files: measuring the engine itself puts another in its place.
        if build.accuracy.record is not None:
            (scratch / ACCURACY_NAME).write_bytes(encode_record(build.accuracy.record))
    return manifest


def plan_build(checkpoint_dir: Path, recipe: BuildRecipe) -> PlannedBuild:
    """Everything of a build but its files. Raises CheckpointError, BuildError."""
    checkpoint = Checkpoint.open(checkpoint_dir)
    config = checkpoint.config
    resolved = recipe.resolve(config)
    target = find_target(resolved.target)
    algorithms = config.module_quantization.algorithms
    check_capabilities(target, resolved, config.dtype, algorithms, config.pooling is not None)
    check_scales(checkpoint)
    network = build_network(checkpoint, resolved.limits.max_seq_len)
    with needs(f"Target {target.name}", target.requires):
        build = target.plan(network, checkpoint, resolved)
    plan = EnginePlan(
        model=model_facts(checkpoint),
        limits=resolved.limits,
        target=build.facts,
        work=work_plan(checkpoint, build.facts),
    )
    return PlannedBuild(checkpoint, plan, build, checkpoint.accuracy(build.facts.kv_cache.dtype))


def _manifest(build: PlannedBuild, files: dict[str, FileFacts]) -> EngineManifest:
    facts = build.plan.target
    return EngineManifest(
        inflight_version=inflight.__version__,
        target=facts.recipe.target,
        target_abi=facts.own.interface,
        target_facts=facts.own.record(),
        model=build.plan.model,
        limits=build.plan.limits,
        kv_cache=facts.kv_cache,
        precision=facts.precision,
        memory=facts.memory,
        work=build.plan.work,
        generation=generation_facts(build.checkpoint),
        pooling=pooling_facts(build.checkpoint),
        listing=facts.listing,
        source=source_facts(build.checkpoint),
        recipe=facts.recipe.record(),
        tools={**facts.tools, **{name: version(name) for name in _GRAPH_PACKAGES}},
        files=files,
    )


def _check_disk(directory: Path, nbytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < nbytes:
        raise BuildError(
            f"The engine takes {nbytes:,} bytes and {directory.parent} has {free:,} free.",
            "Free some space or choose another --output-dir.",
        )


def _copy_tokenizer(checkpoint: Checkpoint, directory: Path) -> None:
    if checkpoint.tokenizer_directory is not None:
        shutil.copytree(checkpoint.tokenizer_directory, directory / TOKENIZER_DIRECTORY)
        index_vocabulary(directory / TOKENIZER_DIRECTORY)


def _file_facts(directory: Path) -> dict[str, FileFacts]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    with progress_bar("Digesting files", sum(path.stat().st_size for path in paths)) as advance:
        return {
            path.relative_to(directory).as_posix(): FileFacts(
                bytes=path.stat().st_size, sha256=sha256_file(path, advance)
            )
            for path in paths
        }
