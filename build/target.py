"""What a build target is: a recipe of its own, capabilities, and a build in two steps, so that a dry run can stop after
the first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from msgspec import UNSET, UnsetType

from inflight.accuracy.record import FoundRecord
from inflight.build.recipe import BuildRecipe, KvCacheDtype, KvCacheType
from inflight.engine_format.manifest import (
    Dtype,
    GenerationFacts,
    KvCacheFacts,
    MemoryPlan,
    ModelFacts,
    ModulePrecision,
    PoolingFacts,
    SourceFacts,
    WorkPlan,
)
from inflight.engine_format.target_facts import TargetFacts
from inflight.progress import Advance

if TYPE_CHECKING:
    import onnx_ir as ir

    from inflight.convert.checkpoint.directory import Checkpoint
    from inflight.convert.source.opened import SourceModel

OwnRecipe = TypeVar("OwnRecipe", bound=BuildRecipe)

QUANTIZED_CACHES: tuple[KvCacheDtype, ...] = ("int8", "fp8", "int4")
FLOATS: tuple[Literal["float32", "float16", "bfloat16"], ...] = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a target takes. It is asked before anything is planned; what it does not list is refused by name.

    dtypes: of checkpoints. kv_cache_dtypes: of the cache; None: only that of the checkpoint. kv_cache_types: the first
    is the default. quantization: algorithms of checkpoints (`quant_algo`); None: whatever a checkpoint can have, and
    the target itself refuses what it cannot lower. pooling: models that embed or score, in place of generating.
    """

    dtypes: tuple[Dtype, ...] = FLOATS
    kv_cache_dtypes: tuple[KvCacheDtype, ...] | None = FLOATS
    kv_cache_types: tuple[KvCacheType, ...] = ("paged",)
    quantization: tuple[str, ...] | None = None
    pooling: bool = False


@dataclass(frozen=True, kw_only=True)
class BuildFacts:
    """The part of the manifest that a target decides. `recipe` is the recipe as this target understood it; `own` goes
    under `target_facts`; `listing`: the file of tables for `inflight inspect`, if the target writes one.
    `matrix_bytes`: of all packed matrices but experts; None: as many as the checkpoint has.
    """

    own: TargetFacts
    recipe: BuildRecipe
    kv_cache: KvCacheFacts
    precision: dict[str, ModulePrecision]
    memory: MemoryPlan
    tools: dict[str, str]
    listing: str | None = None
    matrix_bytes: int | None = None


class TargetBuild(Protocol):
    """One planned build. Planning reads no weight and writes nothing."""

    @property
    def facts(self) -> BuildFacts: ...

    def write(self, directory: Path, advance: Advance) -> None:
        """Write the target's files into `directory`; `advance` is called with bytes of `facts.memory.weights_bytes`."""
        ...


@dataclass(frozen=True, kw_only=True)
class EngineSource:
    """What an engine is built from, as far as its manifest tells: a checkpoint, or a model that is taken as it is.

    source: where it is from, which takes reading all of it, for its digest. accuracy: the record that the engine gets.
    write_tokenizer: puts the tokenizer's files, if there are any, into a
    folder that it makes. pooling: unset for an engine that generates.
    """

    model: ModelFacts
    work: WorkPlan
    generation: GenerationFacts
    source: Callable[[], SourceFacts]
    accuracy: FoundRecord
    write_tokenizer: Callable[[Path], None]
    write_pooling: Callable[[Path], None] = lambda _: None
    pooling: PoolingFacts | UnsetType = UNSET


class ModelBuild(TargetBuild, Protocol):
    """One planned build of a ModelTarget. `notes`: what a user should know of it, in sentences."""

    @property
    def source(self) -> EngineSource: ...

    @property
    def notes(self) -> list[str]: ...


class AnyTarget(ABC, Generic[OwnRecipe]):
    """What all targets have, as the registry knows them (build/registry.py). Importing its module imports nothing
    heavy: what compiles is imported by `plan`.

    summary: a sentence for --help. requires: the command that installs what building for it needs.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    requires: ClassVar[str]
    capabilities: ClassVar[Capabilities] = Capabilities()

    @abstractmethod
    def recipe_class(self) -> type[OwnRecipe]:
        """The class of its recipes, whose own fields are its flags."""

    def identity(self, recipe: OwnRecipe) -> Any:
        """What beside the recipe decides the engine, as plain values: what `native` means on this machine, say. Engines
        that were built unasked are kept under it."""
        return None


class Target(AnyTarget[OwnRecipe]):
    """A target that builds from a checkpoint and its network."""

    @abstractmethod
    def plan(self, network: ir.Model, checkpoint: Checkpoint, recipe: OwnRecipe) -> TargetBuild:
        """Plan the build of `network` (build/network) with a resolved recipe. Raises BuildError."""


@dataclass(frozen=True)
class ModelShape:
    """What a recipe is resolved by: the type of the weights, and how many positions the model knows (None: any)."""

    dtype: Dtype
    positions: int | None


class ModelTarget(AnyTarget[OwnRecipe]):
    """A target that takes the Hugging Face model itself, which need not be one that `inflight convert` reads."""

    @abstractmethod
    def shape_of(self, source: SourceModel, recipe: OwnRecipe) -> ModelShape:
        """What config.json tells, before a weight is read. Raises BuildError for a model that is not taken."""

    @abstractmethod
    def plan_model(self, source: SourceModel, shape: ModelShape, recipe: OwnRecipe) -> ModelBuild:
        """Plan the build with a resolved recipe. Unlike `plan` it may read the weights. Raises BuildError."""
