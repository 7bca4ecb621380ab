"""What a target alone knows of its engines: a record of its own, under `target_facts` of the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar

import msgspec

from inflight.engine_format.manifest import EngineManifest, Facts

OwnFacts = TypeVar("OwnFacts", bound="TargetFacts")


class TargetFacts(Facts, frozen=True, kw_only=True):
    """The base of such a record. `interface` is the version of the boundary between the target's builder and its
    executor, `target_abi` in the manifest: it goes up whenever one of them no longer understands the other.
    """

    interface: ClassVar[int]

    def loaded_files(self) -> Iterable[str]:
        """The names of the files that the executor opens."""
        raise NotImplementedError

    def code_for(self) -> Sequence[str]:
        """The machines that the engine holds code for, in words; nothing where it runs everywhere."""
        return ()

    def record(self) -> dict[str, Any]:
        """As the manifest keeps it."""
        facts: dict[str, Any] = msgspec.to_builtins(self)
        return facts

    @classmethod
    def of(cls: type[OwnFacts], manifest: EngineManifest) -> OwnFacts:
        """Those of an engine of this target. Raises msgspec.ValidationError for an unknown key, a missing key, a value
        of another type, or a file that the manifest does not list.
        """
        facts = msgspec.convert(manifest.target_facts, cls)
        if unknown := [name for name in facts.loaded_files() if name not in manifest.files]:
            raise msgspec.ValidationError(f"no digest of {', '.join(unknown)}")
        return facts
