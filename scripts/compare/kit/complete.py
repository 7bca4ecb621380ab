"""Whether the packages of a kit are all that its parts import: tried in a Python that finds nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from inflight.errors import BuildError

_PARTS = ("machine", "tokens", "company", "sampling", "steps", "network", "kernels", "peers", "sanitizer")
_CUDA = ("cuda.bindings.driver", "cuda.bindings.runtime")


def refuse_incomplete(files: Iterable[tuple[str, bytes]], stand_in: Path, site: Path, *, with_cuda: bool) -> None:
    """`files` (place, contents) are for this Python, and are written to `site`; `with_cuda`: its bindings are among
    them. Raises BuildError with the last line of what went wrong."""
    for name, data in files:
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    modules = [f"compare.kit.parts.{part}" for part in _PARTS] + list(_CUDA if with_cuda else ())
    modules += ["compare.gpu.timing", "inflight.runtime.executors.cuda.gpu_backend"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(stand_in))), "PYTHONNOUSERSITE": "1"}
    # Without `site`, whose .pth files lead to the packages of this environment.
    command = [sys.executable, "-S", "-c", f"import {', '.join(modules)}"]
    result = subprocess.run(command, env=environment, cwd=site, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"The kit's packages do not import: {result.stderr.strip().splitlines()[-1]}")
