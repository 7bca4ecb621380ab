"""The command that builds an engine again, for messages."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def rebuild_hint(recipe: Mapping[str, Any], target: str, directory: Path, **changes: Any) -> str:
    """A sentence that ends in the command; see rebuild_command."""
    return f"Build it again from its checkpoint: {rebuild_command(recipe, target, directory, **changes)}"


def rebuild_command(recipe: Mapping[str, Any], target: str, directory: Path, **changes: Any) -> str:
    """The build-engine command line of `recipe`, into the same directory; `changes` replace entries of the recipe.

    The recipe's keys are the flags, so this works for manifests of other versions. Checkpoints may have moved, so a
    manifest does not say where they were: CKPT stands for it.
    """
    words = ["inflight", "build-engine", "--checkpoint-dir", "CKPT", "--output-dir", str(directory), "--force"]
    for key, value in {"target": target, **recipe, **changes}.items():
        flag = "--" + key.replace("_", "-")
        if isinstance(value, list | tuple):
            value = ",".join(map(str, value))
        if value is True:
            words.append(flag)
        elif value not in (None, False, ""):
            words += [flag, str(value)]
    return shlex.join(words)
