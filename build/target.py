"""The interface of a build target: plan, then write, so that a dry run can stop after the plan."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx_ir as ir

from inflight.build.recipe import BuildRecipe
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.engine_format.manifest import DevicePlan, KvCacheFacts, MemoryPlan, ModulePrecision, Variant
from inflight.errors import BuildError
from inflight.progress import Advance


@dataclass(frozen=True, kw_only=True)
class TargetFacts:
    """The part of the manifest that a target decides. `recipe` is the recipe with this target's choices filled in."""

    target_abi: int
    recipe: BuildRecipe
    kv_cache: KvCacheFacts
    precision: dict[str, ModulePrecision]
    memory: MemoryPlan
    variants: tuple[Variant, ...] = ()
    plans: tuple[DevicePlan, ...] = ()
    tools: dict[str, str]


class TargetBuild(Protocol):
    """One planned build. Planning reads no weight and writes nothing."""

    facts: TargetFacts

    def write(self, directory: Path, advance: Advance) -> None:
        """Write the target's files into `directory`; `advance` is called with bytes of `facts.memory.weights_bytes`."""
        ...


class Target(Protocol):
    """A module-level object `TARGET` of inflight.build.targets.<name>.target."""

    def plan(self, network: ir.Model, checkpoint: Checkpoint, recipe: BuildRecipe) -> TargetBuild:
        """Plan the build of `network` (build/network) with a resolved recipe. Raises BuildError."""
        ...


def find_target(name: str) -> Target:
    """The target of that name. Raises BuildError when there is none."""
    try:
        module = importlib.import_module(f"inflight.build.targets.{name}.target")
    except ModuleNotFoundError as error:
        raise BuildError(f"There is no target {name}.", "Choose cpu, reference or tensorrt.") from error
    target: Target = module.TARGET
    return target
