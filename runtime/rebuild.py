"""The command that builds an engine again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def rebuild_command(recipe: Mapping[str, Any], target: str, directory: Path, **changes: Any) -> str:
    """A sentence with the build-engine command line for `recipe`; `changes` replace entries of it.

    The recipe's keys are the flags, so this works for manifests of other versions. Checkpoints may have moved, so a
    manifest does not say where they were: CKPT stands for it.
    """
    words = ["inflight", "build-engine", "--checkpoint-dir", "CKPT", "--output-dir", str(directory), "--target", target]
    for key, value in {**recipe, **changes}.items():
        flag = "--" + key.replace("_", "-")
        if isinstance(value, list | tuple):
            value = ",".join(map(str, value))
        if value is True:
            words.append(flag)
        elif value not in (None, False, "") and key != "target":
            words += [flag, str(value)]
    return f"Build it again from its checkpoint: {shlex.join(words)}"
