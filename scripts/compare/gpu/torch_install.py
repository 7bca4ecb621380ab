"""An environment of its own for torch, whose release asks for one cuBLAS."""

from __future__ import annotations

import venv
from pathlib import Path

from compare.engines.base import run_logged
from compare.install import PINS
from compare.offline.worker_process import Command

NAME = "torch-cuda"


def torch_python(peers: Path) -> Path:
    """The Python that has torch, installed below `peers` the first time. Raises EngineFailed."""
    home = peers / NAME
    python, done = home / "bin" / "python", home / "installed"
    if not done.exists():
        venv.create(home, with_pip=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install"]
        run_logged(Command([*pip, "-r", str(PINS / f"{NAME}.txt")]), peers / f"{NAME}.log")
        done.touch()
    return python
